"""`waive`: findings that a file says are meant to be so."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from compiler.codes import CODES, WAIVABLE
from compiler.diagnostics import Diagnostic, Label, Span, at_most, did_you_mean
from compiler.layering.merge import WAIVE
from compiler.source.tree import Mapping, Scalar, kind


class Waivers(NamedTuple):
    """What one file waives: code -> where it says so."""

    file: str
    codes: dict[str, Span]


def read_waivers(file: str, tree: Mapping, found: list[Diagnostic]) -> Waivers:
    """The waivers of a file; those that cannot be are reported."""
    node = tree.get(WAIVE)
    if node is None:
        return Waivers(file, {})
    if not isinstance(node, Mapping) or node.tag:
        problem = f"`waive` takes a mapping of code -> reason, not {node.tag or kind(node)}"
        found.append(Diagnostic("E310", problem, Label(node.span)))
        return Waivers(file, {})
    found += at_most(_mistakes(node), file)
    return Waivers(file, {entry.key: entry.key_span for entry in node.entries.values() if entry.key in WAIVABLE})


def _mistakes(waivers: Mapping) -> Iterator[Diagnostic]:
    for entry in waivers.entries.values():
        if entry.key not in WAIVABLE:
            guess = did_you_mean(entry.key, WAIVABLE)
            known = "an error: it cannot be waived" if entry.key in CODES else "not the code of a finding"
            hint = f"did you mean `{guess}`?" if guess else f"there are {', '.join(sorted(WAIVABLE))}"
            yield Diagnostic("E310", f"`{entry.key}` is {known}", Label(entry.key_span), help=hint)
        elif not isinstance(entry.value, Scalar) or not isinstance(entry.value.value, str) or not entry.value.value:
            yield Diagnostic("E310", f"`{entry.key}` is waived without a reason", Label(entry.value.span))


def waive(found: Iterable[Diagnostic], waivers: Iterable[Waivers]) -> Iterator[Diagnostic]:
    """The findings that no file waives: neither the one that they are in, nor a model they were found through.

    A waiver that nothing needed is a finding of its own, so that it goes when its reason has gone.
    """
    by_file = {each.file: each.codes for each in waivers if each.codes}
    used: set[tuple[str, str]] = set()
    for diagnostic in found:
        through = [diagnostic.primary.span.file] if diagnostic.primary else []
        files = [file for file in (*through, *diagnostic.compiling) if diagnostic.code in by_file.get(file, {})]
        used |= {(file, diagnostic.code) for file in files}
        if not files:
            yield diagnostic
    for file, codes in by_file.items():
        for code, span in codes.items():
            if (file, code) not in used:
                yield Diagnostic("W210", f"nothing here needs the waiver of {code}", Label(span), help="remove it")
