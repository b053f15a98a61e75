"""The reference docs are what the schema and the table of codes say."""

from pathlib import Path

import pytest

from compiler.codes import CODES, WAIVABLE
from compiler.reference.docs import files, words
from runtime.schema.deployment import AutoscalingConfig

REPO = Path(__file__).resolve().parents[3]


def test_the_pages_are_current(request: pytest.FixtureRequest) -> None:
    for path, content in files().items():
        if request.config.getoption("update_snapshots"):
            (REPO / path).write_bytes(content)
        assert (REPO / path).read_bytes() == content, f"{path}: run pytest --snapshot-update"


def test_every_field_has_a_meaning() -> None:
    rows = [line for line in files()["docs/reference.md"].decode().splitlines() if line.startswith("| `")]
    assert len(rows) > 80
    assert [row for row in rows if row.rstrip("| ").endswith("|")] == []


@pytest.mark.parametrize(
    ("field", "said"),
    [("min_replicas", "integer, at least 0"), ("aggregation_function", "`mean`, `max`, `min`")],
)
def test_types_are_told_in_words(field: str, said: str) -> None:
    info = AutoscalingConfig.model_fields[field]
    assert words(info.annotation, info.metadata) == said


def test_every_code_says_what_it_means() -> None:
    assert [code for code, each in CODES.items() if len(each.meaning) < 40] == []
    assert [code for code in CODES if code[0] not in "EW" or len(code) != 4] == []
    assert CODES.keys() >= WAIVABLE
