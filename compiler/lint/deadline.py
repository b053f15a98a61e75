"""W212: a deadline that never comes, because the cluster ends requests before it."""

from collections.abc import Iterator

from compiler.diagnostics import Diagnostic, Label, Span
from compiler.facts import Deadline
from compiler.source.tree import Mapping as Tree
from compiler.source.tree import find
from runtime.application import ModelSpec

_DEADLINE = ("deployment_config", "request_timeout_s")


def deadline(tree: Tree, spec: ModelSpec) -> Deadline | None:
    """When the model's answers must be complete; None where it does not say."""
    seconds = spec.deployment_config.request_timeout_s
    node, _, reached = find(tree, _DEADLINE)
    return None if seconds is None else Deadline(seconds, node.span if reached == _DEADLINE else None)


def never_comes(deadline: Deadline | None, limit: float, limit_span: Span | None) -> Iterator[Diagnostic]:
    """A finding where the cluster's limit is not above. At least one of the two was set: the defaults fit."""
    if deadline is None or deadline.seconds < limit:
        return
    message = f"`request_timeout_s` is {deadline.seconds:g} s, but the cluster ends every request after {limit:g} s"
    places = ((deadline.span, "the model's deadline"), (limit_span, "the cluster's limit"))
    first, *others = (Label(span, text) for span, text in places if span)
    hint = "clients would see a cut connection instead of an error: keep the cluster's limit above"
    yield Diagnostic("W212", message, first, tuple(others), hint)
