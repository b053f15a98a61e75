"""`!template` texts: Jinja2's grammar, cut down to what cannot loop, call or compute.

A template is read with Jinja2's parser and evaluated by walking its nodes (`layering.template`): nothing is compiled
or executed. Allowed are names, attributes, constants, `~`, conditional expressions with `==`, `!=`, `not`, `and`
and `or`, and the filters of FILTERS.
"""

from collections.abc import Iterator
from typing import Any

from jinja2 import Environment, TemplateSyntaxError, nodes

from compiler.diagnostics import did_you_mean

MAX_LENGTH = 1024
"""Longest template; this bounds the time and the depth of its reading. The longest seen in use has 80 characters."""

SECTIONS = ("deployment_config", "model_config", "scaling_config")
MODEL_ID = "model_id"
"""A name of its own, because nearly every template is about it: `model_config.model_id`."""
NAMES = (MODEL_ID, *SECTIONS)

FILTERS: dict[str, tuple[int, int]] = {
    "basename": (0, 0),
    "default": (1, 1),
    "lower": (0, 0),
    "replace": (2, 2),
    "slug": (0, 0),
    "upper": (0, 0),
}
"""Each filter and how many arguments it takes: least and most."""

_COMPARISONS = {"eq": "==", "ne": "!="}
_PLAIN = (
    nodes.And, nodes.Compare, nodes.Concat, nodes.CondExpr, nodes.Const, nodes.Getattr, nodes.Not, nodes.Operand,
    nodes.Or, nodes.Output, nodes.Template, nodes.TemplateData,
)  # fmt: skip
_WORDS = {
    nodes.Call: "calls",
    nodes.For: "loops",
    nodes.If: "statements; write `{{ a if b else c }}`",
    nodes.Getitem: "subscripts; write `a.b`",
    nodes.List: "lists",
    nodes.Tuple: "tuples",
    nodes.Dict: "mappings",
    nodes.Test: "tests; compare with `==`",
}

_ENVIRONMENT = Environment(keep_trailing_newline=True)  # noqa: S701 (it only parses; no HTML is made)


def parse(text: str) -> nodes.Template:
    """The nodes of a template that `mistakes` has found none in."""
    return _ENVIRONMENT.parse(text)


def mistakes(text: str) -> list[str]:
    """What is wrong with a template, before anything is known about the config."""
    if len(text) > MAX_LENGTH:
        return [f"a template of {len(text)} characters; at most {MAX_LENGTH} are read"]
    try:
        template = parse(text)
    except TemplateSyntaxError as error:
        return [f"not a template: {error.message}"]
    except RecursionError:
        return ["a template that is nested too deep"]
    if "{{" not in text:
        return ["a template without an expression; leave `!template` out, or write `{{ model_id }}`"]
    return list(dict.fromkeys(_refused(template)))


def _refused(node: nodes.Node) -> Iterator[str]:
    match node:
        case nodes.Name():
            if node.name not in NAMES:
                yield f"`{node.name}` is not a name of the config{_guess(node.name, NAMES)}"
        case nodes.Filter():
            yield from _refused_filter(node)
        case nodes.Getattr() if not isinstance(node.node, nodes.Name | nodes.Getattr):
            yield "an attribute belongs to a name, as in `model_config.model_id`"
        case nodes.Compare() if len(node.ops) > 1:
            yield "a template compares two values at a time"
        case nodes.Operand(op=operator) if operator not in _COMPARISONS:
            yield f"a template compares with {' and '.join(_COMPARISONS.values())} only"
        case nodes.Neg() | nodes.Pos() | nodes.BinExpr() if not isinstance(node, nodes.And | nodes.Or):
            yield "a template has no arithmetic"
        case _ if not isinstance(node, _PLAIN):
            yield f"a template has no {_WORDS.get(type(node), 'statements')}"
            return
    for child in node.iter_child_nodes():
        yield from _refused(child)


def _refused_filter(node: nodes.Filter) -> Iterator[str]:
    if node.name not in FILTERS:
        yield f"there is no filter `{node.name}`{_guess(node.name, FILTERS)}"
        return
    least, most = FILTERS[node.name]
    if node.kwargs or node.dyn_args or node.dyn_kwargs or not least <= len(node.args) <= most:
        yield f"filter `{node.name}` takes {least or 'no'} argument{'' if least == 1 else 's'}"


def _guess(name: str, known: Any) -> str:
    guess = did_you_mean(name, known)
    return f"; did you mean `{guess}`?" if guess else f"; there are {', '.join(known)}"
