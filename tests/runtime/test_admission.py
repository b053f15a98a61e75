"""Admission: places are counted, refusals are immediate."""

import pytest

from runtime.admission import Admission
from runtime.errors import OverloadedError


def admits(admission: Admission) -> bool:
    try:
        with admission.admit():
            return True
    except OverloadedError:
        return False


def test_so_many_and_not_one_more() -> None:
    admission = Admission(2)
    with admission.admit(), admission.admit():
        with pytest.raises(OverloadedError, match="2 of at most 2 answers"), admission.admit():
            pytest.fail("there was a third place")
        assert admission.inside == 2
    assert admission.inside == 0
    assert admits(admission)


def test_nobody_enters_where_there_are_no_places() -> None:
    assert not admits(Admission(0))


@pytest.mark.parametrize("error", [ValueError, OverloadedError, GeneratorExit])
def test_an_error_inside_gives_the_place_back_and_goes_on(error: type[BaseException]) -> None:
    admission = Admission(1)
    with pytest.raises(error), admission.admit():
        raise error
    assert admission.inside == 0
    assert admits(admission)


def test_a_lower_limit_lets_those_inside_stay() -> None:
    admission = Admission(3)
    with admission.admit():
        with admission.admit(), admission.admit():
            admission.limit = 1
            assert admission.inside == 3 and not admits(admission)
        assert not admits(admission)
    assert admits(admission)


def test_a_higher_limit_holds_at_once() -> None:
    admission = Admission(1)
    with admission.admit():
        assert not admits(admission)
        admission.limit = 2
        assert admits(admission)
