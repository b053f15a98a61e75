"""The order of layers is Python's own, and bounded work even for deep or wide ones."""

from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compiler.diagnostics import ConfigErrors
from compiler.layering.layers import stack
from compiler.source.project import Project
from compiler.source.syntax import parse
from tests.compiler.support import write


@st.composite
def hierarchies(draw: st.DrawFn) -> list[list[int]]:
    """For each layer the ones that it extends, all of them earlier."""
    count = draw(st.integers(1, 7))
    return [draw(st.lists(st.integers(0, n - 1), unique=True, max_size=3)) if n else [] for n in range(count)]


def order_of(parents: list[list[int]]) -> list[int] | None:
    """Ours; None where there is none."""
    trees = {
        f"base/l{n}.yaml": parse(f"extends: [{', '.join(f'l{p}' for p in ps)}]\n".encode(), f"base/l{n}.yaml")
        for n, ps in enumerate(parents)
    }

    class InMemory(Project):
        def layer_files(self, name: str) -> list[str]:
            return [f"base/{name}.yaml"]

    try:
        layers = stack(InMemory(Path("/nowhere"), _trees=dict(trees)), f"base/l{len(parents) - 1}.yaml")
    except ConfigErrors as errors:
        assert [diagnostic.code for diagnostic in errors.diagnostics] == ["E203"]
        return None
    return [int(layer.file.removeprefix("base/l").removesuffix(".yaml")) for layer in layers]


def order_of_python(parents: list[list[int]]) -> list[int] | None:
    """Python's: bases are read from left to right, so the list is turned round."""

    @cache
    def class_of(number: int) -> type:
        return type(str(number), tuple(class_of(base) for base in reversed(parents[number])), {})

    try:
        return [int(each.__name__) for each in reversed(class_of(len(parents) - 1).__mro__[:-1])]
    except TypeError:
        return None


@given(hierarchies())
def test_the_order_is_that_of_pythons_classes(parents: list[list[int]]) -> None:
    assert order_of(parents) == order_of_python(parents)


def test_the_defaults_lie_under_everything_and_a_layer_counts_once(tmp_path: Path) -> None:
    files = {"base/defaults.yaml": "{}\n", "base/a.yaml": "{}\n", "base/b.yaml": "extends: a\n"}
    files |= {"base/c.yaml": "extends: a\n", "registry/m.yaml": "extends: [b, c]\n", "registry/n.yaml": "{}\n"}
    project = Project(write(tmp_path, files))
    assert [layer.file for layer in stack(project, "registry/m.yaml")] == [
        "base/defaults.yaml", "base/a.yaml", "base/b.yaml", "base/c.yaml", "registry/m.yaml",
    ]  # fmt: skip
    assert [layer.file for layer in stack(project, "registry/n.yaml")] == ["base/defaults.yaml", "registry/n.yaml"]


def test_a_long_chain(tmp_path: Path) -> None:
    files = {f"base/l{n}.yaml": f"extends: l{n - 1}\n" if n else "{}\n" for n in range(200)}
    layers = stack(Project(write(tmp_path, files)), "base/l199.yaml")
    assert [layer.file for layer in layers] == [f"base/l{n}.yaml" for n in range(200)]


def test_a_chain_that_is_too_long_is_refused(tmp_path: Path) -> None:
    files = {f"base/l{n}.yaml": f"extends: l{n - 1}\n" if n else "{}\n" for n in range(1200)}
    with pytest.raises(ConfigErrors, match="a chain of more than 256 layers"):
        stack(Project(write(tmp_path, files)), "base/l1199.yaml")


def test_a_tower_of_diamonds_does_not_double_the_work(tmp_path: Path) -> None:
    files = {"base/l0.yaml": "{}\n"}
    for n in range(1, 40):
        files |= {f"base/a{n}.yaml": f"extends: l{n - 1}\n", f"base/b{n}.yaml": f"extends: l{n - 1}\n"}
        files[f"base/l{n}.yaml"] = f"extends: [a{n}, b{n}]\n"
    assert len(stack(Project(write(tmp_path, files)), "base/l39.yaml")) == 1 + 3 * 39


@pytest.mark.parametrize("length", range(1, 6))
def test_a_circle_is_shown_as_a_path(tmp_path: Path, length: int) -> None:
    files = {f"base/l{n}.yaml": f"extends: l{(n + 1) % length}\n" for n in range(length)}
    names = [f"base/l{n % length}.yaml" for n in range(length + 1)]
    with pytest.raises(ConfigErrors, match=" -> ".join(names)):
        stack(Project(write(tmp_path, files)), "base/l0.yaml")
