"""The same merge by other tools: `python -m benchmarks.peers TOOL FROM TO` writes a JSON file for each model.

They merge, and no more: none of them checks a value, says where one was set, or writes a Ray Serve config.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.registry import Tree

CHAIN = "extends"


def prepare(tool: str, layers: dict[str, Tree], folder: Path) -> None:
    """The registry in the tool's own language."""
    for path, tree in layers.items():
        if path.startswith("registry/clusters/"):
            continue
        content = {key: value for key, value in tree.items() if key != CHAIN}
        below = below_of(path, tree)
        suffix, text = _WRITERS[tool](content, below, path)
        file = folder / f"{path}{suffix}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def below_of(path: str, tree: Tree) -> str | None:
    """The layer directly under one."""
    return f"base/{tree[CHAIN]}" if CHAIN in tree else None if path == "base/defaults" else "base/defaults"


def _jsonnet(content: Tree, below: str | None, path: str) -> tuple[str, str]:
    way = "../" * path.count("/")
    return ".jsonnet", (f"(import '{way}{below}.jsonnet') + " if below else "") + _object(content)


def _object(tree: Tree) -> str:
    items = (
        f"{json.dumps(k)}+: {_object(v)}" if isinstance(v, dict) else f"{json.dumps(k)}: {json.dumps(v)}"
        for k, v in tree.items()
    )
    return "{" + ", ".join(items) + "}"


def _omegaconf(content: Tree, below: str | None, _: str) -> tuple[str, str]:
    return ".yaml", json.dumps({"below": below, **content})


def _hydra(content: Tree, below: str | None, _: str) -> tuple[str, str]:
    defaults = json.dumps([*([f"/{below}"] if below else []), "_self_"])
    values = [f"{key}: {json.dumps(value)}" for key, value in content.items()]
    return ".yaml", "\n".join(["# @package _global_", f"defaults: {defaults}", *values, ""])


def _jinja(content: Tree, below: str | None, _: str) -> tuple[str, str]:
    return ".json", json.dumps({"below": below, "content": content})


_WRITERS: dict[str, Callable[[Tree, str | None, str], tuple[str, str]]] = {
    "gojsonnet": _jsonnet,
    "hydra": _hydra,
    "jinja2": _jinja,
    "omegaconf": _omegaconf,
    "rjsonnet": _jsonnet,
}


def _run_jsonnet(evaluate: Callable[[str], str]) -> Callable[[Path, Path], None]:
    def run(source: Path, target: Path) -> None:
        for file in sorted((source / "registry").glob("*.jsonnet")):
            (target / f"{file.stem}.json").write_text(evaluate(str(file)))

    return run


def run_rjsonnet(source: Path, target: Path) -> None:
    import rjsonnet

    _run_jsonnet(rjsonnet.evaluate_file)(source, target)


def run_gojsonnet(source: Path, target: Path) -> None:
    import _gojsonnet

    _run_jsonnet(_gojsonnet.evaluate_file)(source, target)


def run_omegaconf(source: Path, target: Path) -> None:
    from omegaconf import OmegaConf

    base: dict[str, Any] = {}

    def load(path: str) -> Any:
        config = OmegaConf.load(source / f"{path}.yaml")
        below = config.pop("below")
        return (
            OmegaConf.merge(base.setdefault(below, load(below)) if below not in base else base[below], config)
            if below
            else config
        )

    for file in sorted((source / "registry").glob("*.yaml")):
        merged = OmegaConf.to_container(load(f"registry/{file.stem}"))
        (target / f"{file.stem}.json").write_text(json.dumps(merged))


def run_hydra(source: Path, target: Path) -> None:
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    with initialize_config_dir(str(source.resolve()), version_base=None):
        for file in sorted((source / "registry").glob("*.yaml")):
            merged = OmegaConf.to_container(compose(f"registry/{file.stem}"))
            (target / f"{file.stem}.json").write_text(json.dumps(merged))


def run_jinja2(source: Path, target: Path) -> None:
    """A template for each chain of layers, whose values a model's file may override by path."""
    import jinja2
    import yaml

    templates: dict[str, jinja2.Template] = {}

    def merged(path: str) -> Tree:
        layer = json.loads((source / f"{path}.json").read_text())
        return _over(merged(layer["below"]) if layer["below"] else {}, layer["content"])

    for file in sorted((source / "registry").glob("*.json")):
        layer = json.loads(file.read_text())
        below, own = layer["below"], dict(_leaves(layer["content"]))
        shape = f"{below} {sorted(own)}"
        if shape not in templates:
            whole = _over(merged(below), layer["content"])
            templates[shape] = jinja2.Template("\n".join(_template(whole, own)))
        text = templates[shape].render(own={name: json.dumps(value) for name, value in own.items()})
        (target / f"{file.stem}.json").write_text(json.dumps(yaml.CSafeLoader(text).get_single_data()))


def _over(lower: Tree, upper: Tree) -> Tree:
    merged = dict(lower)
    for key, value in upper.items():
        both = isinstance(value, dict) and isinstance(lower.get(key), dict)
        merged[key] = _over(lower[key], value) if both else value
    return merged


def _leaves(tree: Tree, path: str = "") -> Any:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def _template(tree: Tree, own: Tree, path: str = "", indent: str = "") -> Any:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield f"{indent}{key}:"
            yield from _template(value, own, f"{path}{key}.", f"{indent}  ")
        elif f"{path}{key}" in own:
            yield f"{indent}{key}: {{{{ own['{path}{key}'] }}}}"
        else:
            yield f"{indent}{key}: {{% raw %}}{json.dumps(value)}{{% endraw %}}"


def merged_layers(layers: dict[str, Tree]) -> dict[str, Tree]:
    """What every tool should come to: model -> config."""

    def merged(path: str) -> Tree:
        below = below_of(path, layers[path])
        content = {key: value for key, value in layers[path].items() if key != CHAIN}
        return _over(merged(below) if below else {}, content)

    models = [path for path in layers if path.startswith("registry/") and not path.startswith("registry/clusters/")]
    return {path.removeprefix("registry/"): merged(path) for path in models}


TOOLS: dict[str, Callable[[Path, Path], None]] = {
    "rjsonnet": run_rjsonnet,
    "gojsonnet": run_gojsonnet,
    "jinja2": run_jinja2,
    "omegaconf": run_omegaconf,
    "hydra": run_hydra,
}

if __name__ == "__main__":
    TOOLS[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))
