"""`graph`: which layers lie on which, as a tree of text, DOT or Mermaid."""

from collections.abc import Callable, Iterator

Edges = dict[str, list[str]]
"""File -> the files that it extends, in their order."""


def text(roots: list[str], edges: Edges) -> Iterator[str]:
    """A tree a root: what it stands on, below it. A layer that was shown already is only named again."""
    shown: set[str] = set()
    for root in roots:
        yield _name(root)
        yield from _branches(root, edges, "", shown)


def _branches(file: str, edges: Edges, indent: str, shown: set[str]) -> Iterator[str]:
    below = edges.get(file, [])
    for layer in below:
        last = layer == below[-1]
        again = layer in shown and bool(edges.get(layer))
        yield f"{indent}{'`-- ' if last else '|-- '}{_name(layer)}{' (above)' if again else ''}"
        shown.add(layer)
        if not again:
            yield from _branches(layer, edges, indent + ("    " if last else "|   "), shown)


def dot(roots: list[str], edges: Edges) -> Iterator[str]:
    """For Graphviz: `llm-serve graph --format dot | dot -Tsvg > layers.svg`."""
    yield "digraph layers {"
    yield "  rankdir=LR; node [shape=box];"
    yield from (f'  "{_name(root)}";' for root in roots if not edges.get(root))
    yield from _arrows(edges, lambda upper, lower: f'  "{_name(upper)}" -> "{_name(lower)}";')
    yield "}"


def mermaid(roots: list[str], edges: Edges) -> Iterator[str]:
    """For Markdown that renders Mermaid."""
    names = {file: f"n{number}" for number, file in enumerate(dict.fromkeys([*roots, *_files(edges)]))}
    yield "graph LR"
    yield from (f'  {name}["{_name(file)}"]' for file, name in names.items())
    yield from _arrows(edges, lambda upper, lower: f"  {names[upper]} --> {names[lower]}")


def _arrows(edges: Edges, arrow: Callable[[str, str], str]) -> Iterator[str]:
    for upper, below in edges.items():
        yield from (arrow(upper, lower) for lower in below)


def _files(edges: Edges) -> Iterator[str]:
    for upper, below in edges.items():
        yield upper
        yield from below


def _name(file: str) -> str:
    """The name that `extends` has for a file."""
    return file.partition("/")[2].removesuffix(".yaml")
