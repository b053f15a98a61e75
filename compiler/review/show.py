"""`show`: the merged config of a model as YAML, each line with its origin if asked for."""

from collections.abc import Iterator

from compiler.check.fields import fields, models_at
from compiler.emit import scalar
from compiler.source.tree import Mapping, Node, Sequence, plain
from runtime.application import ModelSpec

Line = tuple[str, str]
"""A line of YAML, and the place that it is from."""


def show(tree: Mapping) -> list[Line]:
    """The merged config, keys in the order of the schema."""
    return list(_mapping(tree, (), 0))


def _mapping(node: Mapping, path: tuple[str, ...], indent: int) -> Iterator[Line]:
    for key in in_order(node, path):
        entry = node.entries[key]
        yield from _item(f"{' ' * indent}{scalar(key)}:", entry.value, (*path, key), indent)


def _item(start: str, node: Node, path: tuple[str, ...], indent: int) -> Iterator[Line]:
    match node:
        case Mapping() if node.entries:
            yield start, ""
            yield from _mapping(node, path, indent + 2)
        case Sequence() if node.items:
            yield start, ""
            for item in node.items:
                yield from _item(f"{' ' * (indent + 2)}-", item, path, indent + 4)
        case _:
            yield f"{start} {scalar(plain(node))}", str(node.span)


def in_order(node: Mapping, path: tuple[str, ...]) -> list[str]:
    """The keys of a mapping: declared ones in the schema's order, then the others as they stand."""
    declared = [key for model in models_at(ModelSpec, path) for key in fields(model)]
    known = [key for key in dict.fromkeys(declared) if key in node.entries]
    return [*known, *(key for key in node.entries if key not in known)]
