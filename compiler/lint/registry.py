"""What only the whole registry shows: overrides that nobody needs, names of other models."""

from collections.abc import Collection, Iterator, Mapping

from compiler.diagnostics import Diagnostic
from compiler.facts import Facts, Mention


def lint_registry(
    facts: Facts, needed: Collection[tuple[str, ...]], ids: Mapping[str, list[str]]
) -> Iterator[Diagnostic]:
    """What is found in a model beside others.

    `needed`: the paths at which models above need its value; `ids`: every model's id by its folded name.
    """
    for diagnostic in facts.dead:
        if diagnostic.fix and diagnostic.fix.remove not in needed:
            yield diagnostic
    for mention in facts.mentions:
        if other := _named(mention, facts, ids):
            message = f"`{mention.key}` names {other}, but `model_id` is {facts.model_id}"
            yield Diagnostic("W202", message, mention.place, (mention.model_id_place,))


def _named(mention: Mention, facts: Facts, ids: Mapping[str, list[str]]) -> str | None:
    """The model whose name is a word of the text, or the end of one: `models--acme--chat-7b` ends with `chat-7b`."""
    for word in mention.words:
        parts = word.split("-")
        for first in range(len(parts)):
            others = sorted(set(ids.get("-".join(parts[first:]), ())) - set(facts.own_ids))
            if others:
                return others[0]
    return None
