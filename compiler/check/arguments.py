"""The arguments of libraries that config files pass on, from `arguments.json` beside this file."""

import json
from functools import cache
from pathlib import Path
from typing import NamedTuple


class ArgumentTable(NamedTuple):
    """What one callable of a library takes."""

    library: str
    version: str
    callable: str
    arguments: frozenset[str]


@cache
def table(name: str) -> ArgumentTable:
    """The table of that name."""
    row = json.loads(Path(__file__).with_suffix(".json").read_text())[name]
    return ArgumentTable(row["library"], row["version"], row["callable"], frozenset(row["arguments"]))
