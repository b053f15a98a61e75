"""`fmt`: one order of keys, the schema's, and one layout of lines. Comments move with what they are about."""

from compiler.check.fields import fields, models_at
from compiler.check.file_keys import FileKeys
from compiler.source.syntax import parse
from compiler.source.tree import Mapping, Node, Scalar, Sequence, same
from runtime.schema import Schema

Path = tuple[str, ...]


def layout(source: str, file: str, schema: type[Schema]) -> str:
    """The text in its one form. Raises ConfigErrors where it cannot be read."""
    tree = parse(source.encode(), file)
    lines = source.replace("\r\n", "\n").split("\n")
    kept = set(_inside_scalars(tree))
    lines = [line if number in kept else line.rstrip() for number, line in enumerate(lines, 1)]
    while not lines[-1] and len(lines) not in kept:
        lines.pop()
    blocks = _ordered(lines, tree, (), (1, len(lines)), schema)
    result = "\n".join(_without_gaps(blocks)).strip("\n") + "\n"
    assert same(parse(result.encode(), file), tree), "formatting must not change what a file says"
    return result


_Line = tuple[str, bool]
"""A line, and whether it is inside a value, which nothing may touch."""


def _ordered(lines: list[str], node: Mapping, path: Path, rows: tuple[int, int], schema: type[Schema]) -> list[_Line]:
    """The lines of a block mapping, from the first to the last of `rows`, in the schema's order."""
    entries = list(node.entries.values())
    column = entries[0].key_span.column
    starts = [_start(lines, entry.key_span.line, column, rows[0]) for entry in entries]
    if not path:
        starts[0] = entries[0].key_span.line  # what stands above the first key is about the file
    ends = [*(start - 1 for start in starts[1:]), rows[1]]
    blocks: dict[str, list[_Line]] = {}
    for entry, start, end in zip(entries, starts, ends, strict=True):
        value = entry.value
        if _is_block(value, entry.key_span.line) and isinstance(value, Mapping):
            first = next(iter(value.entries.values())).key_span
            inner = _start(lines, first.line, first.column, entry.key_span.line + 1)
            head = _plain(lines, start, inner - 1)
            blocks[entry.key] = [*head, *_ordered(lines, value, (*path, entry.key), (inner, end), schema)]
        else:
            blocks[entry.key] = _verbatim(lines, start, end, value)
    head = _plain(lines, rows[0], starts[0] - 1)
    body = [line for key in _keys(node, path, schema) for line in blocks[key]]
    while path and not body[0][0]:
        del body[0]
    return [*head, *body]


def _start(lines: list[str], line: int, column: int, first: int) -> int:
    """The first line of what belongs to the key at `line`: comments at its column right above it, and gaps."""
    while line > first:
        above = lines[line - 2]
        is_comment = above.startswith(" " * (column - 1) + "#")
        if above.strip() and not is_comment:
            break
        line -= 1
    return line


def _is_block(node: Node, key_line: int) -> bool:
    """Whether a mapping's entries stand on lines of their own."""
    if not isinstance(node, Mapping) or not node.entries:
        return False
    rows = [entry.key_span.line for entry in node.entries.values()]
    columns = {entry.key_span.column for entry in node.entries.values()}
    return rows[0] > key_line and len(set(rows)) == len(rows) and len(columns) == 1 and _in_block_style(node)


def _in_block_style(node: Mapping) -> bool:
    first = next(iter(node.entries.values())).key_span
    return node.tag is not None or (node.span.line, node.span.column) == (first.line, first.column)


def _keys(node: Mapping, path: Path, schema: type[Schema]) -> list[str]:
    """The keys in the schema's order; those that it does not declare keep theirs, behind."""
    declared = [*(fields(FileKeys) if not path else ())]
    declared += [key for model in models_at(schema, path) for key in fields(model)]
    return sorted(node.entries, key=lambda key: declared.index(key) if key in declared else len(declared))


def _plain(lines: list[str], first: int, last: int) -> list[_Line]:
    return [(line, False) for line in lines[first - 1 : last]]


def _verbatim(lines: list[str], first: int, last: int, value: Node) -> list[_Line]:
    inside = set(_inside_scalars(value))
    return [(line, number in inside) for number, line in enumerate(lines[first - 1 : last], first)]


def _inside_scalars(node: Node) -> list[int]:
    """The lines that begin inside a value, whose spaces belong to it."""
    match node:
        case Mapping():
            return [line for entry in node.entries.values() for line in _inside_scalars(entry.value)]
        case Sequence():
            return [line for item in node.items for line in _inside_scalars(item)]
        case Scalar():
            last = node.span.end_line - (node.span.end_column == 1)  # a block scalar ends where the next line begins
            return list(range(node.span.line + 1, last + 1))


def _without_gaps(lines: list[_Line]) -> list[str]:
    """No more than one empty line together, outside of values."""
    kept: list[str] = []
    for line, is_inside in lines:
        if line or is_inside or (kept and kept[-1]):
            kept.append(line)
    return kept
