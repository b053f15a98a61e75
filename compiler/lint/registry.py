"""What only the whole registry shows: overrides that nobody needs, names of other models."""

from collections.abc import Iterable, Iterator, Mapping

from compiler.diagnostics import Diagnostic
from compiler.facts import Facts, Mention
from compiler.lint.rules import folded_name


def lint_registry(registry: Iterable[Facts]) -> Iterator[tuple[Facts, Diagnostic]]:
    """Findings and the models that they were found in."""
    models = list(registry)
    needed: dict[str, set[tuple[str, ...]]] = {}
    ids: dict[str, list[str]] = {}
    for each in models:
        for file, paths in each.needs.items():
            needed.setdefault(file, set()).update(paths)
        ids.setdefault(folded_name(each.model_id), []).append(each.model_id)
    for each in models:
        for diagnostic in each.dead:
            if diagnostic.fix and diagnostic.fix.remove not in needed.get(each.file, ()):
                yield each, diagnostic
        for mention in each.mentions:
            if other := _named(mention, each, ids):
                message = f"`{mention.key}` names {other}, but `model_id` is {each.model_id}"
                yield each, Diagnostic("W202", message, mention.place, (mention.model_id_place,))


def _named(mention: Mention, facts: Facts, ids: Mapping[str, list[str]]) -> str | None:
    """The model whose name is a word of the text, or the end of one: `models--acme--chat-7b` ends with `chat-7b`."""
    for word in mention.words:
        parts = word.split("-")
        for first in range(len(parts)):
            others = sorted(set(ids.get("-".join(parts[first:]), ())) - set(facts.own_ids))
            if others:
                return others[0]
    return None
