"""What models share is worked on once, and each comes out as if it were alone and nothing were left out."""

import random

import pytest
import yaml

from compiler.attempt import Attempt, attempt
from compiler.build import keys
from compiler.check import layers as layers_module
from compiler.check.layers import Layers
from compiler.check.validate import validate
from compiler.diagnostics import ConfigErrors
from compiler.emit import emit_item
from compiler.lower.serve import Model, model_application
from compiler.source.project import Project
from compiler.source.tree import Mapping, canonical, plain
from runtime.application import ModelSpec

REGISTRIES = 400

SETTINGS: dict[str, list[str]] = {
    "deployment_config.autoscaling_config.max_replicas": ["1", "3", "0", "two"],
    "deployment_config.autoscaling_config.min_replicas": ["0", "1", "4"],
    "deployment_config.autoscaling_config": ["{}", "{min_replicas: 1}", "null"],
    "deployment_config.num_replicas": ["null", "null", "2"],
    "deployment_config.ray_actor_options.num_cpus": ["1.0", "2", "'2'"],
    "deployment_config.ray_actor_options.resources": ["{g5: 1}", "{g5: null}", "{CPU: 1}", "null", "3"],
    "model_config.generation.generate_kwargs.temperature": ["0.5", "0.0", "-0.0", "1e-7", "-1"],
    "model_config.generation.generate_kwargs.top_k": ["1", "5", "!final 5", "!force 6"],
    "model_config.generation.generate_kwargs": ["{}", "{top_k: 3}", "!replace {top_k: 3}", "null"],
    "model_config.generation.stopping_sequences": [
        "[a]",
        "[b, 7]",
        "!append [b, 7]",
        "!remove [7.0]",
        "!remove [a]",
        "[[]]",
    ],
    "model_config.generation.prompt_format": ["'x {instruction}'", "''", "no", "!unset "],
    "model_config.initialization.initializer.type": ["SingleDevice", "deepspeed", "vLLM", "none"],
    "model_config.initialization.initializer.dtype": ["float16", "auto", "int3"],
    "model_config.initialization.initializer.engine_kwargs": ["{seed: 1}", "{seed: {a: b}}", "{sead: 1}", "{}"],
    "model_config.initialization.initializer.torch_compile": ["{}", "{mode: default}", "{mod: default}"],
    "model_config.initialization.initializer.device_map": ["auto", "{a: 0}", "{b: cpu, c: 1.5}"],
    "model_config.initialization.runtime_env.env_vars": ["{A: b}", "{A: {from_env: B}}", "{A: {}}", "{A: 1}"],
    "model_config.initialization.runtime_env.pip": ["[x==1]", "[x==2, y]", "[5, '5']", "!replace [z]", "{a: [b]}"],
    "model_config.initialization.runtime_env.anything": ["{a: {b: c}}", "[1]"],
    "model_config.initialization.s3_mirror_config.bucket_uri": ["s3://b/", '!template "s3://{{ model_id | slug }}/"'],
    "model_config.initialization.s3_mirror_config": ["null", "{}", "{bucket: x}"],
    "model_config.max_input_words": ["1", "3", "0", '!template "{{ scaling_config.num_workers }}"'],
    "scaling_config.num_workers": ["1", "2", "1.0"],
    "scaling_config.resources_per_worker": ["{g5: 0.5}", "{g6: 1, g5: null}", "{g5: {a: 1}}"],
    "unknown": ["1"],
}
"""Paths, and values for them: the first two are mostly right there, others wrong, or wrong in one file alone."""
RARE = ("engine_kwargs", "device_map", "unknown", "anything")
"""Keys that are mostly wrong."""


def text_of(random_: random.Random, count: int) -> str:
    """A file with so many settings, in flow style where values are."""
    tree: dict[str, object] = {}
    is_bad = random_.random() < 0.1
    paths = [path for path in sorted(SETTINGS) if is_bad or not path.endswith(RARE)]
    for path in random_.sample(paths, count):
        *above, key = path.split(".")
        at = tree
        for step in above:
            at = at.setdefault(step, {}) if isinstance(at.get(step, {}), dict) else {}  # type: ignore[assignment]
        values = SETTINGS[path]
        at[key] = random_.choice(values if is_bad else values[:2])
    return lines(tree)


def lines(tree: dict[str, object], indent: str = "") -> str:
    found = ""
    for key, value in tree.items():
        inner = f"\n{lines(value, indent + '  ')}" if isinstance(value, dict) else f" {value}\n"
        found += f"{indent}{key}:{inner}"
    return found


def registry(random_: random.Random) -> dict[str, bytes]:
    """Models that share stacks of profiles, and some that lie on other models."""
    files = {"base/defaults.yaml": "model_config: {initialization: {initializer: {type: SingleDevice}}}\n"}
    files["base/low.yaml"] = text_of(random_, 5)
    for name in ("left", "right"):
        files[f"base/{name}.yaml"] = f"extends: low\n{text_of(random_, 3)}"
    for number in range(6):
        below = random_.choice(["left", "right", "[left, right]", *(["m0"] if number else [])])
        own = text_of(random_, random_.randrange(4))
        if "model_config:\n" not in own:
            own = f"model_config:\n{own}" if not own else f"{own}model_config:\n"
        own = own.replace("model_config:\n", f"model_config:\n  model_id: acme/m{number}\n", 1)
        files[f"registry/m{number}.yaml"] = f"extends: {below}\n{own}"
    return {file: text.encode() for file, text in files.items()}


def project_of(files: dict[str, bytes], tmp_path) -> Project:
    for file, data in files.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(data)
    return Project(tmp_path)


def outcome(made: Attempt) -> tuple[object, ...]:
    found = sorted(map(repr, {*made.found, *made.errors}))
    return made.name, made.key, made.action, made.data, found


def attempts(project: Project, names: list[str], digests: dict[str, str]) -> list[tuple[object, ...]]:
    layers = Layers(project)
    return [outcome(attempt(layers, digests, name, lambda _: False)) for name in names]


def test_models_come_out_together_as_alone_and_checked_in_full(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = {"right": 0, "wrong": 0}
    for seed in range(REGISTRIES):
        files = registry(random.Random(seed))
        root = tmp_path / str(seed)
        root.mkdir()
        project = project_of(files, root)
        digests = {file: keys.digest(data) for file, data in files.items()}
        names = project.models
        together = attempts(project, names, digests)
        backwards = attempts(Project(root), names[::-1], digests)[::-1]
        with monkeypatch.context() as patch:
            patch.setattr(layers_module, "shows_in_the_whole", lambda *_: False)
            alone = [made for name in names for made in attempts(Project(root), [name], digests)]
        told = [{each for made in group for each in made[-1]} for group in (together, backwards, alone)]  # type: ignore[attr-defined]
        assert told[0] == told[1] == told[2], f"seed {seed}: {files}"
        assert [made[:-1] for made in together] == [made[:-1] for made in alone], f"seed {seed}: {files}"
        assert [made[:-1] for made in together] == [made[:-1] for made in backwards], f"seed {seed}: {files}"
        for made in together:
            outcomes["right" if made[1] else "wrong"] += 1
    assert min(outcomes.values()) > REGISTRIES / 2, outcomes


def test_sections_that_are_known_change_neither_specs_nor_texts(tmp_path) -> None:
    compared = 0
    for seed in range(REGISTRIES):
        root = tmp_path / str(seed)
        root.mkdir()
        project = project_of(registry(random.Random(seed)), root)
        layers = Layers(project)
        for name in project.models:
            try:
                stack = layers.under(f"registry/{name}.yaml")
                assert stack is not None
                tree = layers.merged(stack).tree
                spec = validate(tree, ModelSpec)
            except ConfigErrors:
                continue
            fresh = rebuilt(tree)
            assert plain(tree) == plain(fresh)
            assert canonical(tree) == canonical(fresh)
            again = ModelSpec.model_validate(plain(fresh))
            assert spec == again
            texts = [emit_item(model_application(Model(name, "f", each))) for each in (spec, again)]
            assert texts[0] == texts[1]
            assert yaml.safe_load(texts[0])[0]["name"] == name
            compared += 1
    assert compared > REGISTRIES


def rebuilt(tree: Mapping) -> Mapping:
    """The tree anew, so that nothing has been made of any part of it."""
    entries = {
        key: entry._replace(value=rebuilt(entry.value)) if isinstance(entry.value, Mapping) else entry
        for key, entry in tree.entries.items()
    }
    return tree.with_entries(entries)
