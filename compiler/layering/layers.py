"""`extends`: the order of layers, by C3 (as Python orders base classes).

Source: Barrett et al., "A Monotonic Superclass Linearization for Dylan", 1996. A list of `extends` is read from
bottom to top: a later entry lies on an earlier one, and the file itself lies on all.
"""

from collections.abc import Sequence as List
from typing import NamedTuple

from compiler.diagnostics import ConfigErrors, Diagnostic, Label, Span, at_most, did_you_mean
from compiler.source.project import BASE, DEFAULTS, Project
from compiler.source.tree import Mapping, Node, Scalar, Sequence, kind

EXTENDS = "extends"
MAX_CHAIN = 256
"""Longest chain of `extends`; the longest seen in use has 5, and Python's stack takes some 900."""


class Layer(NamedTuple):
    """One file of a stack."""

    file: str
    tree: Mapping


class _Reference(NamedTuple):
    """A name in an `extends`, and the file it means."""

    file: str
    span: Span


def stack(project: Project, file: str) -> list[Layer]:
    """The layers of `file`, the lowest first, `file` itself last. Raises ConfigErrors, as `Orders`."""
    return [Layer(name, project.tree(name)) for name in Orders(project).of(file)]


def extended(project: Project, file: str) -> list[str]:
    """The files that one file extends, in its order; the defaults where it names none. Raises ConfigErrors."""
    return [reference.file for reference in Orders(project).references(file)]


class Orders:
    """C3 over the files of one project; each file's order is worked out once."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.orders: dict[str, list[str]] = {}
        self._below: dict[tuple[str, ...], list[str]] = {}

    def of(self, file: str) -> list[str]:
        """The files of `file`'s stack, the lowest first, `file` itself last.

        Raises ConfigErrors: unreadable or unknown layers, circles, orders that contradict each other.
        """
        return self.order((_Reference(file, Span(file, 1, 1, 1, 1)),))

    def release(self, file: str) -> None:
        """Forget the order of a file on which nothing lies."""
        self.orders.pop(file, None)

    def order(self, path: tuple[_Reference, ...]) -> list[str]:
        """The files under the last one of `path` and itself, the lowest first. `path`: how we came here."""
        file = path[-1].file
        if file in self.orders:
            return self.orders[file]
        if len(path) > MAX_CHAIN:
            problem = f"a chain of more than {MAX_CHAIN} layers, each extending the next"
            raise ConfigErrors([Diagnostic("E203", problem, Label(path[-1].span))])
        references = self.references(file)
        direct = tuple(reference.file for reference in references)
        if direct not in self._below:
            parents = []
            for reference in references:
                if reference.file in (step.file for step in path):
                    raise ConfigErrors([_circle((*path, reference))])
                parents.append(self.order((*path, reference)))
            self._below[direct] = self._merge(file, [list(direct), *parents], references)
        self.orders[file] = [*self._below[direct], file]
        return self.orders[file]

    def references(self, file: str) -> list[_Reference]:
        """What `file` extends, the defaults under everything included."""
        defaults = f"{BASE}/{DEFAULTS}.yaml"
        found: list[Diagnostic] = []
        references: list[_Reference] = []
        names = _extended_names(self.project.tree(file), found)
        if len(names) > MAX_CHAIN:
            problem = f"`extends` lists {len(names)} layers; at most {MAX_CHAIN} are read"
            raise ConfigErrors([Diagnostic("E205", problem, Label(names[0][1]))])
        for name, span in names:
            files = self.project.layer_files(name)
            if len(files) == 1:
                references.append(_Reference(files[0], span))
            elif files:
                found.append(_ambiguous(name, files, span))
            else:
                found.append(self._unknown(name, span))
        for reference in references:
            if sum(other.file == reference.file for other in references) > 1:
                found.append(Diagnostic("E205", "the same layer is listed twice", Label(reference.span)))
        if found:
            raise ConfigErrors(at_most(found, file))
        if file == defaults and references:
            problem = f"{defaults} lies under every layer, so it cannot lie on one"
            raise ConfigErrors([Diagnostic("E202", problem, Label(references[0].span))])
        if file != defaults and not references and DEFAULTS in self.project.profiles:
            references.append(_Reference(defaults, self.project.tree(file).span))
        return references

    def _unknown(self, name: str, span: Span) -> Diagnostic:
        guess = did_you_mean(name, [*self.project.models, *self.project.profiles])
        hint = f"did you mean `{guess}`?" if guess else "a layer is a file under base/ or registry/, without .yaml"
        return Diagnostic("E201", f"there is no layer `{name}`", Label(span), help=hint)

    def _merge(self, file: str, lists: list[list[str]], references: list[_Reference]) -> list[str]:
        """C3's merge, from the top down: take the layer that lies under none of the remaining ones."""
        rest = [list(order) for order in lists if order]
        merged: list[str] = []
        while rest:
            candidates = [order[-1] for order in reversed(rest)]
            top = next((c for c in candidates if not any(c in order[:-1] for order in rest)), None)
            if top is None:
                raise ConfigErrors([_inconsistent(file, rest, references)])
            merged.append(top)
            rest = [shorter for order in rest if (shorter := [layer for layer in order if layer != top])]
        return merged[::-1]


def _extended_names(tree: Mapping, found: list[Diagnostic]) -> list[tuple[str, Span]]:
    node = tree.get(EXTENDS)
    if node is None:
        return []
    if node.tag:
        found.append(Diagnostic("E205", f"`extends` is not merged, so that {node.tag} says nothing", Label(node.span)))
    items: List[Node] = node.items if isinstance(node, Sequence) else [node]
    names = []
    for item in items:
        if isinstance(item, Scalar) and isinstance(item.value, str):
            names.append((item.value, item.span))
        else:
            problem = f"`extends` takes a layer's name or a list of them, not {kind(item)}"
            found.append(Diagnostic("E205", problem, Label(item.span)))
    return names


def _ambiguous(name: str, files: list[str], span: Span) -> Diagnostic:
    return Diagnostic("E204", f"`{name}` could be {' or '.join(files)}", Label(span), help="rename one of them")


def _circle(path: tuple[_Reference, ...]) -> Diagnostic:
    """The circle that the last step of `path` closes; the same one whichever file the search came from."""
    files = [step.file for step in path]
    circle = path[files.index(files[-1]) + 1 :]
    last = min(range(len(circle)), key=lambda index: circle[index].file)
    circle = (*circle[last + 1 :], *circle[: last + 1])
    names = " -> ".join(step.file for step in (circle[-1], *circle))
    labels = [Label(step.span, f"extends {step.file}") for step in circle]
    return Diagnostic("E202", f"layers extend each other in a circle: {names}", labels[-1], tuple(labels[:-1]))


def _inconsistent(file: str, rest: list[list[str]], references: list[_Reference]) -> Diagnostic:
    blocked = sorted({order[-1] for order in rest})
    asked = ([layer for layer in order if layer in blocked] for order in rest)
    orders = "; ".join(dict.fromkeys(" under ".join(layers) for layers in asked if len(layers) > 1))
    labels = tuple(Label(reference.span, f"extends {reference.file}") for reference in references)
    message = f"the layers of {file} cannot be put in order: {orders}"
    hint = "a later entry lies on an earlier one: list them in the same order everywhere, and leave out those that\
 another one brings along"
    return Diagnostic("E203", message, labels[-1], labels[:-1], hint)
