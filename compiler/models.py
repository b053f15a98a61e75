"""A model, from its file to its spec, with all that led to it."""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple, TypeVar

from compiler.build.keys import digest
from compiler.check.layers import Layers, without_known
from compiler.check.locks import lock_of
from compiler.check.placement import check_placement
from compiler.check.validate import validate
from compiler.diagnostics import ConfigErrors, Diagnostic, Label, Span, at_most
from compiler.facts import Facts
from compiler.layering.layers import Layer
from compiler.layering.merge import Merged
from compiler.lint.deadline import deadline
from compiler.lint.hardware import asks
from compiler.lint.rules import Subject, dead_overrides, lint, mentions, needs, own_ids
from compiler.lower.serve import Model
from compiler.source.project import NAME, REGISTRY
from compiler.source.tree import canonical, find
from runtime.application import RESERVED_NAMES, ModelDetails, ModelSpec

T = TypeVar("T")

_ADAPTERS = ("model_config", "initialization", "initializer", "lora_modules")


class CompiledModel(NamedTuple):
    """A model with all that led to it; disabled ones too."""

    model: Model
    layers: list[Layer]
    merged: Merged


def compile_model(layers: Layers, name: str) -> CompiledModel | None:
    """One model; None where one of its files is at fault by itself. Raises ConfigErrors."""
    file = f"{REGISTRY}/{name}.yaml"
    check_model_name(name, file)
    with found_through(file):
        stack = layers.under(file)
        return None if stack is None else compile_layers(name, file, stack, layers)


def compile_layers(
    name: str, file: str, stack: list[Layer], layers: Layers, idle: Collection[str] = ()
) -> CompiledModel | None:
    """Merge and check. `idle`: files whose tags may find nothing to act on. As `compile_model`."""
    merged = layers.merged(stack)
    found = [
        each for each in merged.found if each.code != "E208" or not each.primary or each.primary.span.file not in idle
    ]
    spec, lock = None, None
    try:
        spec = validate(merged.tree, ModelSpec)
        found += check_placement(merged.tree, spec)
        lock = lock_of(layers.project, name, merged.tree, spec, found)
    except ConfigErrors as errors:
        found += errors.diagnostics
    if found and (new := without_known(found, layers.found)):
        raise ConfigErrors(at_most(new, file))
    if spec is None:
        return None
    layers.whole_is_right(stack[-1].file)
    return CompiledModel(Model(name, file, spec, lock), stack, merged)


def facts_of(compiled: CompiledModel) -> Facts:
    """What of a model is kept. Lints it."""
    model, tree = compiled.model, compiled.merged.tree
    own = next(layer.tree for layer in compiled.layers if layer.file == model.file)
    subject = Subject(model.name, model.file, model.spec, compiled.layers, compiled.merged, model.lock is not None)
    config = model.spec.model
    card = ModelDetails(**dict(config.card), engine=subject.engine.name, max_input_words=config.max_input_words)
    return Facts(
        name=model.name,
        file=model.file,
        enabled=model.spec.enabled,
        model_id=model.spec.model.model_id,
        adapters={
            name: find(tree, (*_ADAPTERS, name))[1] for name in model.spec.model.initialization.initializer.adapters
        },
        own_ids=own_ids(model.spec),
        card={key: value for key, value in card if value is not None},
        id_span=find(own, ("model_config", "model_id"))[1],
        layers=tuple(layer.file for layer in compiled.layers),
        effective=digest(canonical(tree).encode()),
        engine=subject.engine.name,
        gpus=model.spec.scaling_config.num_workers * model.spec.scaling_config.num_gpus_per_worker,
        asks=tuple(asks(tree, model.spec)),
        deadline=deadline(tree, model.spec),
        mentions=tuple(mentions(subject)),
        found=tuple(through(model.file, each) for each in at_most(lint(subject), model.file)),
        dead=tuple(at_most(dead_overrides(subject), model.file)),
        needs=needs(subject),
    )


def through(file: str, diagnostic: Diagnostic) -> Diagnostic:
    """The finding, with the model that it was found through where it shows no place of that model's file."""
    labels = [label for label in (diagnostic.primary, *diagnostic.secondary) if label]
    return diagnostic if any(label.span.file == file for label in labels) else replace(diagnostic, compiling=(file,))


@contextmanager
def found_through(file: str) -> Iterator[None]:
    """Errors raised within name the model that they were found through."""
    try:
        yield
    except ConfigErrors as errors:
        raise ConfigErrors(through(file, diagnostic) for diagnostic in errors.diagnostics) from errors


def check_name(name: str, file: str, reserved: Collection[str] = ()) -> None:
    """Raise ConfigErrors (E109) for a name that cannot be a route and a folder."""
    if not NAME.fullmatch(name) or name in reserved:
        reason = "is a name of the gateway's" if name in reserved else "has characters other than A-Z a-z 0-9 . _ -"
        raise ConfigErrors([Diagnostic("E109", f"file name `{name}` {reason}", Label(Span(file, 1, 1, 1, 1)))])


def check_model_name(name: str, file: str) -> None:
    """Raise ConfigErrors (E109) for a name that no model can have."""
    check_name(name, file, RESERVED_NAMES)


def collect(found: list[Diagnostic], step: Callable[[], T]) -> T | None:
    """Run one step; its findings join the others, and the compile goes on to find more."""
    try:
        return step()
    except ConfigErrors as errors:
        found += errors.diagnostics
        return None
