"""Findings and facts as JSON, for the store: a list for each thing, its fields in their order."""

import json
from collections.abc import Sequence
from typing import Any

from compiler.check.waivers import Waivers
from compiler.diagnostics import Diagnostic, Fix, Label, Span
from compiler.facts import Ask, Deadline, Facts, Mention


def dump_found(found: Sequence[Diagnostic]) -> str | None:
    """Some findings; None for none."""
    return _dump([_diagnostic(each) for each in found]) if found else None


def load_found(text: str) -> list[Diagnostic]:
    """What `dump_found` made a text of."""
    return [_to_diagnostic(row) for row in json.loads(text)]


def dump_facts(facts: Facts) -> str:
    """The facts of a model."""
    row = [getattr(facts, name) for name in _PLAIN_FACTS]
    found, dead = ([_diagnostic(each) for each in group] for group in (facts.found, facts.dead))
    spans = [facts.adapters, facts.id_span, facts.asks, facts.deadline, facts.mentions]
    return _dump([*row, *spans, found, dead, facts.needs])


def load_facts(text: str) -> Facts:
    """What `dump_facts` made a text of."""
    *row, adapters, id_span, asks, deadline, mentions, found, dead, needs = json.loads(text)
    plain = dict(zip(_PLAIN_FACTS, row, strict=True))
    return Facts(
        **{**plain, "own_ids": tuple(plain["own_ids"]), "layers": tuple(plain["layers"])},
        adapters={name: Span(*span) for name, span in adapters.items()},
        id_span=Span(*id_span),
        asks=tuple(Ask(of_worker, name, Span(*span)) for of_worker, name, span in asks),
        deadline=deadline and Deadline(deadline[0], deadline[1] and Span(*deadline[1])),
        mentions=tuple(Mention(tuple(words), key, _to_label(at), _to_label(own)) for words, key, at, own in mentions),
        found=tuple(map(_to_diagnostic, found)),
        dead=tuple(map(_to_diagnostic, dead)),
        needs={file: tuple(map(tuple, paths)) for file, paths in needs.items()},
    )


_PLAIN_FACTS = (
    "name",
    "file",
    "enabled",
    "model_id",
    "own_ids",
    "card",
    "layers",
    "effective",
    "engine",
    "gpus",
)


def dump_waivers(waivers: Waivers) -> str | None:
    """What a file waives; None for nothing."""
    return _dump([waivers.file, waivers.codes]) if waivers.codes else None


def load_waivers(text: str) -> Waivers:
    """What `dump_waivers` made a text of."""
    file, codes = json.loads(text)
    return Waivers(file, {code: Span(*span) for code, span in codes.items()})


_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def _dump(value: object) -> str:
    return _JSON.encode(value)


def _to_label(row: list[Any]) -> Label:
    span, text = row
    return Label(Span(*span), text)


def _diagnostic(each: Diagnostic) -> list[Any]:
    fix = each.fix and [each.fix.remove, each.fix.put]
    return [each.code, each.message, each.primary, each.secondary, each.help, each.compiling, fix]


def _to_diagnostic(row: list[Any]) -> Diagnostic:
    code, message, primary, others, advice, compiling, fix = row
    return Diagnostic(
        code,
        message,
        primary and _to_label(primary),
        tuple(map(_to_label, others)),
        advice,
        tuple(compiling),
        fix and Fix(tuple(fix[0]), tuple((tuple(path), value) for path, value in fix[1])),
    )
