"""`!template` values, evaluated over the merged config.

A template that is one expression and nothing else has the value of that expression, number or string; all others
are strings.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache

from jinja2 import nodes

from compiler.diagnostics import ConfigErrors, Diagnostic, Label
from compiler.layering.merge import Path
from compiler.source import tags
from compiler.source.expression import MODEL_ID, parse
from compiler.source.tree import Mapping, Node, Scalar, ScalarValue, Sequence, has_templates, inline, kind

MAX_RESULT = 4096
"""Longest text that a template makes: `replace` could let it grow without end. A long URI has 200 characters."""

_FILTERS: dict[str, Callable[..., str]] = {
    "basename": lambda text: text.rpartition("/")[2],
    "lower": str.lower,
    "replace": str.replace,
    "slug": lambda text: text.replace("/", "--"),
    "upper": str.upper,
}
"""What each filter makes of a string; `default` is for what has no value."""

_parse = cache(parse)


def evaluate(tree: Mapping) -> tuple[Mapping, list[Diagnostic]]:
    """`tree` with a value in each template's place, and what went wrong: those templates stay as they are."""
    evaluator = _Evaluator(tree)
    result = evaluator.node(tree)
    assert isinstance(result, Mapping)
    return result, list(dict.fromkeys(evaluator.found))


@dataclass(frozen=True, slots=True)
class _Missing:
    """What a path leads to that no layer has set."""

    path: str


_Value = ScalarValue | _Missing


@dataclass(slots=True)
class _Evaluator:
    """Evaluates the templates of one tree. `open`: those whose values are being worked out, outermost first."""

    tree: Mapping
    open: list[tuple[str, Scalar]] = field(default_factory=list)
    values: dict[Scalar, ScalarValue] = field(default_factory=dict)
    found: list[Diagnostic] = field(default_factory=list)

    def node(self, node: Node, path: Path = ()) -> Node:
        if not has_templates(node):
            return node
        match node:
            case Mapping():
                entries = {
                    key: entry if value is entry.value else entry._replace(value=value)
                    for key, entry in node.entries.items()
                    for value in [self.node(entry.value, (*path, key))]
                }
                return node.with_entries(entries)
            case Sequence():
                return replace(node, items=tuple(self.node(item, path) for item in node.items))
            case Scalar(tag=tags.TEMPLATE):
                return self._evaluated(node, path)
        return node

    def _evaluated(self, node: Scalar, path: Path) -> Scalar:
        try:
            value = self._template(node, ".".join(path))
        except ConfigErrors as errors:
            self.found += errors.diagnostics
            return node
        return Scalar(value, node.span, None, node.layers or (node,))

    def _template(self, node: Scalar, path: str) -> ScalarValue:
        if node in self.values:
            return self.values[node]
        if node in (template for _, template in self.open):
            raise ConfigErrors([self._circle(node)])
        self.open.append((path, node))
        try:
            self.values[node] = self._output(node)
        finally:
            self.open.pop()
        return self.values[node]

    def _output(self, node: Scalar) -> ScalarValue:
        parts = [part for output in _parse(str(node.value)).body for part in output.iter_child_nodes()]
        if len(parts) == 1 and not isinstance(parts[0], nodes.TemplateData):
            return self._known(parts[0], node)
        return "".join(self._text(part, node) for part in parts)

    def _known(self, expression: nodes.Node, node: Scalar) -> ScalarValue:
        value = self._value(expression, node)
        if isinstance(value, _Missing):
            raise _failure(node, f"no layer sets `{value.path}`")
        return value

    def _text(self, expression: nodes.Node, node: Scalar) -> str:
        value = self._known(expression, node)
        if isinstance(value, bool) or value is None:
            raise _failure(node, f"`{inline(value)}` cannot be part of a text")
        if len(str(value)) > MAX_RESULT:
            raise _failure(node, f"it would be longer than {MAX_RESULT} characters")
        return str(value)

    def _value(self, expression: nodes.Node, node: Scalar) -> _Value:
        match expression:
            case nodes.TemplateData():
                return expression.data
            case nodes.Const():
                value: ScalarValue = expression.value
                return value
            case nodes.Name() | nodes.Getattr():
                return self._look_up(_path(expression), node)
            case nodes.Concat():
                return "".join(self._text(part, node) for part in expression.nodes)
            case nodes.CondExpr():
                chosen = expression.expr1 if self._known(expression.test, node) else expression.expr2
                if chosen is None:
                    raise _failure(node, "a condition needs an `else`")
                return self._value(chosen, node)
            case nodes.Filter():
                return self._filtered(expression, node)
        return self._truth(expression, node)

    def _truth(self, expression: nodes.Node, node: Scalar) -> ScalarValue:
        match expression:
            case nodes.Compare():
                equal = self._known(expression.expr, node) == self._known(expression.ops[0].expr, node)
                return equal == (expression.ops[0].op == "eq")
            case nodes.Not():
                return not self._known(expression.node, node)
            case nodes.And():
                return self._known(expression.left, node) and self._known(expression.right, node)
            case nodes.Or():
                return self._known(expression.left, node) or self._known(expression.right, node)
        raise AssertionError(f"the reader lets no {type(expression).__name__} through")

    def _filtered(self, expression: nodes.Filter, node: Scalar) -> _Value:
        assert expression.node is not None
        if expression.name == "default":
            value = self._value(expression.node, node)
            return self._value(expression.args[0], node) if isinstance(value, _Missing) or value is None else value
        text = self._text(expression.node, node)
        return _FILTERS[expression.name](text, *(self._text(argument, node) for argument in expression.args))

    def _look_up(self, path: Path, node: Scalar) -> _Value:
        found: Node | None = self.tree
        for step in ("model_config", MODEL_ID) if path == (MODEL_ID,) else path:
            if isinstance(found, Scalar) and found.value is not None:
                raise _failure(node, f"`{'.'.join(path)}`: there is {kind(found)} above `{step}`")
            found = found.get(step) if isinstance(found, Mapping) else None
        match found:
            case None:
                return _Missing(".".join(path))
            case Scalar(tag=tags.TEMPLATE):
                return self._template(found, ".".join(path))
            case Scalar():
                return found.value
        raise _failure(node, f"`{'.'.join(path)}` is {kind(found)}; a template takes single values")

    def _circle(self, node: Scalar) -> Diagnostic:
        begin = next(index for index, (_, template) in enumerate(self.open) if template == node)
        circle = self.open[begin:]
        first = min(range(len(circle)), key=lambda index: circle[index][0])
        circle = [*circle[first:], *circle[:first]]
        names = " -> ".join(path for path, _ in (*circle, circle[0]))
        labels = [Label(template.span, path) for path, template in circle]
        return Diagnostic("E210", f"templates need each other in a circle: {names}", labels[0], tuple(labels[1:]))


def _path(expression: nodes.Node) -> Path:
    """`a.b.c` of attributes of a name."""
    if isinstance(expression, nodes.Name):
        return (expression.name,)
    assert isinstance(expression, nodes.Getattr)
    return (*_path(expression.node), expression.attr)


def _failure(node: Scalar, reason: str) -> ConfigErrors:
    return ConfigErrors([Diagnostic("E209", f"template has no value: {reason}", Label(node.span))])
