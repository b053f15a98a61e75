"""Every file as a layer: read, with today's names, and checked by itself, once."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

from compiler.check.fields import rules
from compiler.check.libraries import check_arguments
from compiler.check.renames import modernize
from compiler.check.validate import check_layer, shows_in_the_whole
from compiler.check.waivers import Waivers, read_waivers
from compiler.diagnostics import ConfigErrors, Diagnostic, Label, Span, at_most
from compiler.layering.layers import EXTENDS, Layer, Orders
from compiler.layering.merge import WAIVE, Below, Merged, cover, finish, without
from compiler.source.project import BASE, Project
from compiler.source.secrets import secrets_in
from compiler.source.tree import Mapping, has_tags, has_templates
from runtime.application import ModelSpec


@dataclass
class Layers:
    """The layers of a project, each read and checked when it is asked for. `waivers`: what each file waives.

    A model's file that is right as a whole need not be checked by itself, so that waits until somebody asks.
    """

    project: Project
    waivers: dict[str, Waivers] = field(default_factory=dict)
    _found: dict[str, list[Diagnostic]] = field(default_factory=dict)
    _unchecked: dict[str, Mapping] = field(default_factory=dict)
    _layers: dict[str, Layer | None] = field(default_factory=dict)
    _shared: set[str] = field(default_factory=set)
    _merged: dict[tuple[str, ...], Below] = field(default_factory=dict)

    @property
    def found(self) -> list[Diagnostic]:
        """What is wrong with each file that was read, by itself."""
        for file in list(self._unchecked):
            self._check_unchecked(file)
        return [each for found in self._found.values() for each in found]

    def found_in(self, file: str) -> list[Diagnostic]:
        """What is wrong with a file by itself, if it was read."""
        self._check_unchecked(file)
        return self._found.get(file, [])

    def get(self, file: str) -> Layer | None:
        """The layer of a file; None where it cannot be read, which is found once."""
        if file not in self._layers:
            self._found[file] = []
            try:
                self._layers[file] = self._read(file)
            except ConfigErrors as errors:
                self._found[file] += errors.diagnostics
                self._layers[file] = None
        return self._layers[file]

    def order(self, file: str) -> list[str]:
        """The files of `file`'s stack, the lowest first. Raises ConfigErrors where they cannot be put in order."""
        return self._orders.of(file)

    @cached_property
    def _orders(self) -> Orders:
        return Orders(self.project)

    def under(self, file: str) -> list[Layer] | None:
        """The layers of `file`, the lowest first, `file` itself last; None where one of them cannot be read.

        Raises ConfigErrors where they cannot be put in order.
        """
        if self.get(file) is None:
            return None
        try:
            layers = [self.get(name) for name in self.order(file)]
        except ConfigErrors as errors:
            known = set(self.found)
            raise ConfigErrors(each for each in errors.diagnostics if each not in known) from errors
        self._shared.update(layer.file for layer in layers[:-1] if layer)
        return [layer for layer in layers if layer is not None] if all(layers) else None

    def release(self, file: str) -> None:
        """Let a model's file go, unless another one has been seen to lie on it: there may be ten thousand."""
        if file not in self._shared and self._layers.get(file):
            del self._layers[file]
            self.project.release(file)
            self._orders.release(file)

    def check(self, file: str, tree: Mapping) -> Layer:
        """A tree as a layer of `file`; what is wrong with it is found."""
        layer = self._modern(file, tree)
        self._check_unchecked(file)
        return layer

    def whole_is_right(self, file: str) -> None:
        """Hear that nothing is wrong with what `file` and its layers say together."""
        self._unchecked.pop(file, None)

    def _modern(self, file: str, tree: Mapping) -> Layer:
        """A tree with today's names; what can be found without the schema's types is found."""
        self.check_secrets(file, tree)
        tree, found = modernize(tree)
        self._found.setdefault(file, []).extend((*found, *at_most(check_arguments(tree, ModelSpec), file)))
        self._unchecked[file] = without(tree, EXTENDS, WAIVE)
        return Layer(file, tree)

    def _check_unchecked(self, file: str) -> None:
        if tree := self._unchecked.pop(file, None):
            self._found[file] += at_most(check_layer(tree, ModelSpec), file)

    def check_secrets(self, file: str, tree: Mapping) -> None:
        """What looks like a secret is found."""
        self._found.setdefault(file, []).extend(at_most(_secrets(tree), file))

    def merged(self, stack: list[Layer]) -> Merged:
        """The layers of a model in one tree, its templates evaluated."""
        below, top = self._below(stack[:-1]), stack[-1]
        merged = finish(below, top, rules(ModelSpec))
        if not has_tags(top.tree) and (below.tree is None or not has_templates(below.tree)):
            return merged
        from compiler.layering.template import evaluate  # needs Jinja2, which no project without templates should load

        tree, found = evaluate(merged.tree)
        return merged._replace(tree=tree, found=(*merged.found, *found))

    def _below(self, stack: list[Layer]) -> Below:
        """The layers in one tree; profiles, which lie under many models, are merged once."""
        key = tuple(layer.file for layer in stack)
        if not stack or key in self._merged:
            return self._merged[key] if stack else Below()
        below = cover(self._below(stack[:-1]), stack[-1], rules(ModelSpec))
        if key[-1].startswith(f"{BASE}/"):
            self._merged[key] = below
        return below

    def _read(self, file: str) -> Layer:
        tree = self.project.tree(file)
        self.waivers[file] = read_waivers(file, tree, self._found[file])
        layer = self._modern(file, tree)
        if file.startswith(f"{BASE}/") or not shows_in_the_whole(self._unchecked[file], ModelSpec):
            self._check_unchecked(file)
        return layer


def without_known(found: Iterable[Diagnostic], known: Iterable[Diagnostic]) -> list[Diagnostic]:
    """What was found in a merged tree, less what its layers' own checks have said of the same place."""
    told: set[Span] = {each.primary.span for each in known if each.primary and each.code.startswith("E")}
    return [each for each in found if each.primary is None or each.primary.span not in told]


def _secrets(tree: Mapping) -> Iterable[Diagnostic]:
    for reason, node in secrets_in(tree):
        hint = "put it into the node's environment, and write `{from_env: NAME}` under `runtime_env.env_vars`"
        message = f"looks like a secret, by {reason}: a repository is read by many, for ever"
        yield Diagnostic("E309", message, Label(node.span), help=hint)
