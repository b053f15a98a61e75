"""The rules, one function each, and the table of them. A rule sees one compiled model and yields its findings."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

from compiler.diagnostics import Diagnostic, Fix, Label, Span
from compiler.facts import Mention
from compiler.layering.layers import Layer
from compiler.layering.merge import ENABLED, Merged
from compiler.source import tags
from compiler.source.project import REGISTRY
from compiler.source.tree import Mapping as Tree
from compiler.source.tree import Node, Sequence, definitions, find, leaves, plain, same
from runtime.application import ModelSpec
from runtime.engines.spec import EngineSpec

Path = tuple[str, ...]

_SNAPSHOT = re.compile(r"models--[\w.-]+?--[\w.-]+")
"""A repository's folder in a hub cache or a mirror of one."""

_AUTOSCALING: Path = ("deployment_config", "autoscaling_config")
_INITIALIZATION: Path = ("model_config", "initialization")
_INITIALIZER: Path = (*_INITIALIZATION, "initializer")
_GENERATION: Path = ("model_config", "generation")
_MODEL_ID: Path = ("model_config", "model_id")
_BUCKET: Path = (*_INITIALIZATION, "s3_mirror_config", "bucket_uri")
_PROMPT: Path = (*_GENERATION, "prompt_format")
_BATCH: Path = (*_GENERATION, "max_batch_size")


@dataclass(frozen=True)
class Subject:
    """A compiled model."""

    name: str
    file: str
    spec: ModelSpec
    layers: list[Layer]
    merged: Merged
    is_locked: bool = False

    def label(self, path: Path, text: str = "") -> Label:
        """Where a value was set; the model's first line where no layer sets it."""
        node, _, reached = find(self.merged.tree, path)
        return Label(node.span if reached == path else Span(self.file, 1, 1, 1, 1), text)

    @cached_property
    def engine(self) -> EngineSpec:
        """The engine that runs it."""
        return self.spec.model.initialization.engine

    @cached_property
    def foreign_texts(self) -> list[tuple[Path, str]]:
        """The texts that name a model, in lower case and without the model's own names."""
        mirror = self.spec.model.initialization.s3_mirror_config
        names = dict.fromkeys(map(folded_name, own_ids(self.spec)))
        found = []
        for path, text in (
            (_BUCKET, mirror and mirror.bucket_uri),
            (_PROMPT, self.spec.model.generation.prompt_format),
        ):
            rest = (text or "").casefold()
            for name in names:
                rest = rest.replace(name, "")
            found.append((path, rest))
        return found


def lint(subject: Subject) -> Iterator[Diagnostic]:
    """The findings of all rules."""
    for rule in RULES:
        yield from rule(subject)


def dead_overrides(subject: Subject) -> Iterator[Diagnostic]:
    """W201: a value of the model's own file that says what it would inherit."""
    for path, own, below in _dead(subject.layers[-1].tree, subject.merged.below, subject.merged.tree):
        message = f"this override changes nothing: `{'.'.join(path)}` is the same below"
        place = Label(definitions(below)[0].span, "set here")
        advice = "remove the line, or run `llm-serve lint --fix`"
        yield Diagnostic("W201", message, Label(own.span, "same value"), (place,), advice, fix=Fix(path))


def _dead(own: Tree, below: Tree, merged: Tree, above: Path = ()) -> Iterator[tuple[Path, Node, Node]]:
    """The values of `own` that are the same below, and those. What a tag does, a comparison does not show."""
    for key, _, node in own.entries.values():
        if key not in below.entries or key not in merged.entries or node.tag or (not above and key == ENABLED):
            continue
        lower, value = below.entries[key].value, merged.entries[key].value
        if not isinstance(node, Tree) or not node.entries:
            if same(value, lower):
                yield (*above, key), node, lower
        elif isinstance(lower, Tree) and isinstance(value, Tree):
            yield from _dead(node, lower, value, (*above, key))


def needs(subject: Subject) -> dict[str, tuple[Path, ...]]:
    """For each model that this one stands on, where it has that model's value and would have another without it."""
    models = [layer for layer in subject.layers[:-1] if layer.file.startswith(f"{REGISTRY}/")]
    found = {
        layer.file: tuple(path for path, _ in leaves(layer.tree) if _wins(layer.file, path, subject.merged.tree))
        for layer in models
    }
    return {file: paths for file, paths in found.items() if paths}


def _wins(file: str, path: Path, tree: Tree) -> bool:
    """Whether a merged tree has the file's value where it would have another one without it."""
    node, _, reached = find(tree, path)
    layers = [layer for layer in definitions(node) if layer.tag not in tags.EDITS]
    if reached != path or not layers or layers[0].span.file != file:
        return False
    return len(layers) == 1 or not same(layers[0], layers[1])


def mentions(subject: Subject) -> Iterator[Mention]:
    """Where the name of another model may stand, which a new `model_id` has left behind (W202)."""
    for path, rest in subject.foreign_texts:
        if words := _words(rest):
            yield Mention(words, path[-1], subject.label(path), subject.label(_MODEL_ID, "this model"))


@lru_cache
def _words(text: str) -> tuple[str, ...]:
    """The words of a text, where none of them is a model's folder. Models on one profile have texts in common."""
    words = dict.fromkeys(word.rstrip(".") for word in re.findall(r"[\w.-]+", text))
    return () if _SNAPSHOT.search(text) else tuple(words)


def other_models_name(subject: Subject) -> Iterator[Diagnostic]:
    """W202: weights of another model, by the folder of a mirror, or what was set for another `model_id`."""
    for path, rest in subject.foreign_texts:
        if folder := _SNAPSHOT.search(rest):
            yield _names(subject, path, f"names {folder[0].removeprefix('models--').replace('--', '/')}")
    if len(definitions(find(subject.merged.tree, _MODEL_ID)[0])) > 1:
        yield from _left_behind(subject)


def own_ids(spec: ModelSpec) -> tuple[str, ...]:
    """The names of the model itself."""
    return spec.model.model_id, spec.model.initialization.hf_model_id or spec.model.model_id


def _left_behind(subject: Subject) -> Iterator[Diagnostic]:
    """What lies under a new `model_id`, and was meant for the old one."""
    initialization = subject.spec.model.initialization
    files = [layer.file for layer in subject.layers]
    height = files.index(find(subject.merged.tree, _MODEL_ID)[0].span.file)
    path = (*_INITIALIZATION, "hf_model_id" if initialization.hf_model_id else "revision")
    node, _, reached = find(subject.merged.tree, path)
    if reached != path or node.span.file not in files or files.index(node.span.file) >= height:
        return
    value = initialization.hf_model_id or initialization.revision
    if value not in (subject.spec.model.model_id, "main"):
        yield _names(subject, path, f"is `{value}`, set for another model")


def _names(subject: Subject, path: Path, problem: str) -> Diagnostic:
    model_id = subject.spec.model.model_id
    message = f"`{path[-1]}` {problem}, but `model_id` is {model_id}"
    return Diagnostic("W202", message, subject.label(path), (subject.label(_MODEL_ID, "this model"),))


def folded_name(model_id: str) -> str:
    """A model's name without its organisation, in lower case."""
    return model_id.rpartition("/")[2].casefold()


def batch_does_not_fill(subject: Subject) -> Iterator[Diagnostic]:
    """W203: Ray Serve adds replicas, or holds requests back, before a batch is full."""
    config, slots = subject.spec.deployment_config, subject.spec.model.generation.max_batch_size
    scaling = config.autoscaling_config
    if scaling and scaling.max_replicas > scaling.min_replicas and slots > scaling.target_ongoing_requests:
        target = scaling.target_ongoing_requests
        message = f"`max_batch_size` is {slots}, but Ray Serve adds replicas when each has {target:g}"
        label = subject.label((*_AUTOSCALING, "target_ongoing_requests"), "the autoscaler's target")
        yield Diagnostic("W203", message, subject.label(_BATCH), (label,), "a batch does not fill before that")
    limit = config.max_ongoing_requests
    if limit is not None and slots > limit:
        message = f"`max_batch_size` is {slots}, but Ray Serve sends a replica only {limit} requests at a time"
        label = subject.label(("deployment_config", "max_ongoing_requests"), "the limit")
        yield Diagnostic("W203", message, subject.label(_BATCH), (label,), "leave `max_ongoing_requests` out")


def starts_what_scales_to_zero(subject: Subject) -> Iterator[Diagnostic]:
    """W204: replicas that are started at each deploy, to be stopped again."""
    scaling = subject.spec.deployment_config.autoscaling_config
    if scaling and scaling.min_replicas == 0 and scaling.initial_replicas:
        message = f"the model scales to zero, but each deploy starts {scaling.initial_replicas} of its replicas"
        label = subject.label((*_AUTOSCALING, "min_replicas"), "scales to zero")
        yield Diagnostic("W204", message, subject.label((*_AUTOSCALING, "initial_replicas")), (label,))


def workers_and_gpus(subject: Subject) -> Iterator[Diagnostic]:
    """W205: more workers, or more GPUs for one of them, than the engine can use."""
    engine, scaling = subject.engine, subject.spec.scaling_config
    workers = ("scaling_config", "num_workers")
    gpus = ("scaling_config", "num_gpus_per_worker")
    if engine.parallel == "workers" and scaling.num_gpus_per_worker > 1:
        message = f"{engine.name} runs one worker per GPU, not {scaling.num_gpus_per_worker:g} GPUs a worker"
        yield Diagnostic("W205", message, subject.label(gpus), help="keep it at 1, and raise `num_workers`")
    if engine.parallel != "workers" and engine.runs_in == "workers" and scaling.num_workers > 1:
        message = f"{engine.name} runs in one worker, not in {scaling.num_workers}"
        hint = "keep it at 1, and raise `num_gpus_per_worker`" if engine.parallel == "gpus" else "keep it at 1"
        yield Diagnostic("W205", message, subject.label(workers), help=hint)
    if engine.parallel == "none" and scaling.num_gpus_per_worker > 1:
        message = f"{engine.name} uses one GPU, not {scaling.num_gpus_per_worker:g}"
        yield Diagnostic("W205", message, subject.label(gpus), help="keep it at 1, or use DeviceMap")


def stop_that_looks_like_a_token(subject: Subject) -> Iterator[Diagnostic]:
    """W206: a number in quotes is matched as text."""
    node, _, reached = find(subject.merged.tree, (*_GENERATION, "stopping_sequences"))
    for item in node.items if isinstance(node, Sequence) else (node,) if len(reached) == 3 else ():
        value = plain(item)
        if isinstance(value, str) and value.strip().isdecimal():
            message = f"the stopping sequence `{value}` is a text of digits, not a token id"
            yield Diagnostic(
                "W206", message, Label(item.span), help=f"write {value.strip()} without quotes for the token"
            )


def file_name(subject: Subject) -> Iterator[Diagnostic]:
    """W207: a file is found by the name of what it declares."""
    name = subject.spec.model.model_id.replace("/", "--")
    file, start = subject.name.casefold(), name.casefold()
    if file != start and not (file.startswith(f"{start}-") and file != f"{start}-"):
        message = f"`{subject.name}` declares the model {subject.spec.model.model_id}"
        yield Diagnostic("W207", message, subject.label(_MODEL_ID), help=f"call the file {name}.yaml")


def unpinned_remote_code(subject: Subject) -> Iterator[Diagnostic]:
    """W208: whoever can push to the repository could run code on the node; a replica refuses it."""
    initialization = subject.spec.model.initialization
    if subject.is_locked or initialization.pins_code:
        return
    hint = f"lock the model: `llm-serve lock {subject.name}`"
    if initialization.commit:
        hint += "; a pinned commit is not enough where a mirror says itself what it holds"
    elif not (initialization.s3_mirror_config and initialization.s3_mirror_config.bucket_uri):
        hint += ", or pin the commit: `model_config.initialization.revision` with all its 40 digits"
    for kwargs in ("from_pretrained_kwargs", "engine_kwargs"):
        path = (*_INITIALIZER, kwargs, "trust_remote_code")
        node, _, reached = find(subject.merged.tree, path)
        if reached == path and plain(node) is True:
            message = f"the code of {subject.spec.model.model_id} is trusted, and not pinned: a replica refuses it"
            yield Diagnostic("W208", message, subject.label(path), help=hint)


def ignored_placement(subject: Subject) -> Iterator[Diagnostic]:
    """W211: how workers are placed, for an engine that has none."""
    engine = subject.engine
    for key in ("placement_strategy", "pg_timeout_s") if engine.runs_in == "replica" else ():
        node, _, reached = find(subject.merged.tree, ("scaling_config", key))
        if len(reached) == 2:
            message = f"`{key}` is ignored: {engine.name} computes in the replica and has no workers to place"
            yield Diagnostic("W211", message, Label(node.span), help="remove it")


RULES: tuple[Callable[[Subject], Iterator[Diagnostic]], ...] = (
    other_models_name,
    batch_does_not_fill,
    starts_what_scales_to_zero,
    workers_and_gpus,
    stop_that_looks_like_a_token,
    file_name,
    unpinned_remote_code,
    ignored_placement,
)
