"""One scalar, one meaning: what we read, what we write for it, and what three other readers make of that.

The table of troublesome ones is `scalars.txt`; `pytest --snapshot-update` writes it anew.
"""

from io import StringIO
from pathlib import Path
from random import Random

import pytest
import yaml
from ruamel.yaml import YAML

from compiler.diagnostics import ConfigErrors
from compiler.emit import emit
from compiler.source.syntax import parse
from compiler.source.tree import plain
from tests.compiler.node_yaml import parse_with_node
from tests.compiler.support import tree

TABLE = Path(__file__).with_name("scalars.txt")
ROUND_TRIPS = 20_000

TROUBLE = [
    "NO", "no", "on", "Off", "y", "Y", "yes", "true", "True", "tRUE", "~", "null", "Null", "nULL", "", '""',
    "' '", "0", "-0", "+1", "007", "017", "0o17", "0O17", "0x1F", "0xg", "0b11", "1_000", "-12",
    "999999999999999999", "1000000000000000000", "12:30:45", "1:2", "2024-01-01", "2024-01-01T00:00:00Z", "1e3",
    "1E3", "12e", "5e-7", "25921e05", "0.1e+2", "1.", ".5", "-.5", ".", "1.5.0", "-0.0", "1e400", "-1e400",
    ".inf", "-.INF", ".nan", "1e-400", "-0.0e5", "0.1", "1.0",
    "=", '"="', '"<<"', "'<<'", '"- x"', '"a: b"', "a:b", '"a:"',
    '"#x"', "a#b", '"a #b"', '"\\uFEFF"', '"\\0"', '"\\x7f"', '"\\u0085"', '"\\u2028"', "\u00a0x", "é", "😀",
    '"\\ud83d\\ude00"', "'it''s'", "s3://b/k/", "<|im_end|>", '"{instruction}"', '"{{ x }}"', '"!unset"', '"*a"',
    '"&a"', '"%x"', '"@x"', '"`x"', '"|"', '">"', '"?"', "-x", "--", "...x", "_",
]  # fmt: skip
ALPHABET = "aZ0 -:#{}[]&*!|>'\"%@`,?=~.<\\/_\n\t\r\0\x1b\x7f\x85\xa0é\u2028\ufeff\ufffe😀e+x"
WORDS = [
    "no",
    "true",
    "null",
    "~",
    "1e3",
    "0o7",
    ".inf",
    "0x1",
    "1_0",
    "12:30",
    "<<",
    "=",
    "",
    "2024-01-01",
    "-",
    "...",
]


def line(text: str) -> str:
    """A row of the table: the text, what it is for us, and how we write that."""
    try:
        value = plain(tree(f"k: {text}\n"))["k"]
    except ConfigErrors as errors:
        (found,) = errors.diagnostics
        return f"{text!a:24} {found.code}: {found.message}"
    return f"{text!a:24} {type(value).__name__:8} {value!a:26} {emit({'k': value}, '').decode().strip()}"


def test_the_table_is_pinned(request: pytest.FixtureRequest) -> None:
    table = "".join(f"{line(text)}\n" for text in TROUBLE)
    if request.config.getoption("update_snapshots"):
        TABLE.write_text(table)
    assert table == TABLE.read_text()


def ours(document: str) -> object:
    return plain(parse(document.encode(), "a.yaml"))


def pyyaml(document: str) -> object:
    return yaml.load(document, Loader=yaml.CSafeLoader)


def ruamel(document: str) -> object:
    return YAML(typ="safe", pure=True).load(StringIO(document))


def node(document: str) -> object:
    (result,) = parse_with_node([document])
    assert "error" not in result, result
    return from_node(result["value"])


def from_node(value: object) -> object:
    """A value as `parse_with_node` carries it."""
    match value:
        case {"$int": digits}:
            return int(digits)
        case {"$float": digits}:
            return float(digits)
        case {"$map": entries}:
            return {from_node(key): from_node(each) for key, each in entries}
        case list():
            return [from_node(each) for each in value]
    return value


READERS = {"ours": ours, "PyYAML": pyyaml, "ruamel": ruamel, "node": node}


def difference(found: object, wanted: object) -> str | None:
    """Where two documents differ, in value or in type."""
    if isinstance(wanted, dict) and isinstance(found, dict) and found.keys() == wanted.keys():
        return next((each for key in wanted if (each := difference(found[key], wanted[key]))), None)
    if isinstance(wanted, list) and isinstance(found, list) and len(found) == len(wanted):
        return next((each for one, two in zip(found, wanted, strict=True) if (each := difference(one, two))), None)
    same = type(found) is type(wanted) and repr(found) == repr(wanted)
    return None if same else f"{found!r} for {wanted!r}"


@pytest.mark.parametrize("reader", READERS)
def test_every_reader_sees_what_we_mean_by_the_troublesome(reader: str) -> None:
    values = []
    for text in TROUBLE:
        try:
            values.append(plain(tree(f"k: {text}\n"))["k"])
        except ConfigErrors:
            continue
    assert len(values) > 80
    document = {f"k{number}": value for number, value in enumerate(values)}
    assert difference(READERS[reader](emit(document, "header").decode()), document) is None


def scalar(random: Random) -> object:
    kind = random.randrange(8)
    if kind == 0:
        return random.choice([None, True, False])
    if kind == 1:
        return random.choice([0, 1, -1, random.randint(-(10**17), 10**17)])
    if kind == 2:
        return random.choice(
            [0.0, -0.0, 1e16, 1e-7, random.uniform(-1e6, 1e6), random.random() * 10 ** random.randint(-300, 300)]
        )
    if kind == 3:
        return random.choice(WORDS) + random.choice(["", "", " ", "x", ":"])
    return "".join(random.choices(ALPHABET, k=random.randint(0, 8)))


@pytest.mark.parametrize("reader", READERS)
def test_twenty_thousand_round_trips(reader: str) -> None:
    random = Random(2026)
    size = 400
    for _ in range(ROUND_TRIPS // size):
        values = [scalar(random) for _ in range(size)]
        document = {"values": values[: size // 2], "nested": {f"{value}"[:40]: value for value in values[size // 2 :]}}
        assert difference(READERS[reader](emit(document, "header").decode()), document) is None
