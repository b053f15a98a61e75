"""What a new version of a generated file says otherwise than the old one: by setting, not by line."""

from collections.abc import Iterator

from compiler.source.syntax import parse
from compiler.source.tree import Mapping, Node, Sequence, inline, plain


def changes(before: bytes, after: bytes, file: str) -> Iterator[tuple[str, str, str]]:
    """Each setting that is not the same: its path, and what it was and is; `-` where it was or is not there."""
    old, new = (dict(_settings(parse(data, file))) for data in (before, after))
    for path in {**old, **new}:
        was, now = old.get(path, "-"), new.get(path, "-")
        if was != now:
            yield path, was, now


def _settings(node: Node, path: str = "") -> Iterator[tuple[str, str]]:
    match node:
        case Mapping() if node.entries:
            for key, entry in node.entries.items():
                yield from _settings(entry.value, f"{path}.{key}" if path else key)
        case Sequence() if any(isinstance(item, Mapping) for item in node.items):
            for number, item in enumerate(node.items):
                name = item.get("name") if isinstance(item, Mapping) else None
                yield from _settings(item, f"{path}[{inline(plain(name)) if name else number}]")
        case _:
            yield path, inline(plain(node))
