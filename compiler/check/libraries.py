"""Arguments that go to a library as they are, checked against the tables of that library's arguments."""

from collections.abc import Iterator
from functools import cache

from compiler.check.arguments import table
from compiler.check.fields import dotted, every_field, fields, known, marker, models_in, within
from compiler.diagnostics import Diagnostic, Label, did_you_mean
from compiler.source.tree import Entry, Mapping, keys
from runtime.schema import LibraryArguments, Schema


def check_arguments(tree: Mapping, schema: type[Schema]) -> Iterator[Diagnostic]:
    """A finding for each argument that its library does not have, or that llm-serve sets itself."""
    if _holders(schema).isdisjoint(keys(tree)):
        return
    for path, entry, found, owners in known(tree, [schema]):
        if not isinstance(entry.value, Mapping):
            continue
        mark = next((mark for field in found if (mark := marker(field, LibraryArguments))), None)
        opened = [model for owner in owners for model in within(owner, path[-1]) if _is_open(model)]
        if mark is None and not opened:
            continue
        name = mark.table if mark else str(opened[0].library)
        ours = dict(mark.ours) if mark else {}
        declared = {key for model in opened for key in fields(model)}
        for argument in entry.value.entries.values():
            if argument.key in ours:
                message = f"`{argument.key}` is set by llm-serve, so that this value is ignored"
                hint = f"remove it, and write `{ours[argument.key]}`"
                yield Diagnostic("W211", message, Label(argument.key_span), help=hint)
            elif argument.key not in table(name).arguments | declared:
                yield _unknown(argument, path, name, {*ours, *declared})


@cache
def _holders(schema: type[Schema]) -> frozenset[str]:
    """The keys under which arguments of libraries stand."""
    return frozenset(
        path[-1]
        for path, field in every_field(schema)
        if marker(field, LibraryArguments) or any(map(_is_open, models_in(field.annotation)))
    )


def _is_open(model: type[Schema]) -> bool:
    return model.model_config.get("extra") == "allow"


def _unknown(argument: Entry, path: tuple[str, ...], name: str, others: set[str]) -> Diagnostic:
    library = table(name)
    guess = did_you_mean(argument.key, [*sorted(library.arguments), *sorted(others)])
    hint = f"did you mean `{guess}`?" if guess else "`waive: {E306: reason}` passes it on all the same"
    message = f"{library.callable} of {library.library} {library.version} has no argument `{argument.key}`"
    return Diagnostic("E306", f"{message}, in `{dotted(path)}`", Label(argument.key_span), help=hint)
