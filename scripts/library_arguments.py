"""Write `compiler/check/arguments.json`: what the libraries take whose arguments config files may pass on.

`python -m scripts.library_arguments` installs the sources of the libraries into a temporary folder, without what they
depend on, and reads them by their syntax trees: nothing is imported, so neither torch nor a GPU is needed. Ray and
llama-cpp-python are read where they are installed.
"""

import argparse
import ast
import json
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

TARGET = Path(__file__).parent.parent / "compiler" / "check" / "arguments.json"

VERSIONS = ("transformers==5.23.0", "vllm==0.33.0", "deepspeed==0.19.8")
"""Those that the engines run with; a new version means: change this, run this, read the diff."""

Names = Callable[[Path], set[str]]


@dataclass(frozen=True, slots=True)
class Source:
    """Where a table is read: the distribution, the callable as people know it, and how to find its arguments."""

    library: str
    callable: str
    names: Names


def tree(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text(encoding="utf-8"))


def definition(path: Path, dotted: str) -> ast.ClassDef | ast.FunctionDef:
    """A class or function of a file, `Class.method` too."""
    node: ast.AST = tree(path)
    for name in dotted.split("."):
        inner = (each for each in ast.walk(node) if isinstance(each, ast.ClassDef | ast.FunctionDef))
        node = next(each for each in inner if each.name == name)
    assert isinstance(node, ast.ClassDef | ast.FunctionDef)
    return node


def parameters(path: Path, dotted: str) -> set[str]:
    """The named parameters of a function, and what it takes out of its `**kwargs` itself."""
    function = definition(path, dotted)
    assert isinstance(function, ast.FunctionDef)
    arguments = function.args
    named = {each.arg for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)} - {"cls", "self"}
    return named | set(_taken(function, "kwargs"))


def annotated(path: Path, name: str) -> set[str]:
    """The annotated attributes of a class (dataclass and pydantic fields), with pydantic's aliases."""
    body = definition(path, name)
    assert isinstance(body, ast.ClassDef)
    return set(_fields(body))


def _fields(body: ast.ClassDef) -> Iterator[str]:
    for each in body.body:
        if not isinstance(each, ast.AnnAssign) or not isinstance(each.target, ast.Name):
            continue
        if "ClassVar" in ast.unparse(each.annotation) or each.target.id.startswith("_"):
            continue
        yield each.target.id
        if isinstance(each.value, ast.Call):
            for keyword in each.value.keywords:
                if keyword.arg == "alias" and isinstance(keyword.value, ast.Constant):
                    yield str(keyword.value.value)


def _taken(function: ast.AST, mapping: str) -> Iterator[str]:
    """The keys that a function pops or gets out of a mapping by name."""
    for call in ast.walk(function):
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute) or not call.args:
            continue
        key = call.args[0]
        if ast.unparse(call.func) in (f"{mapping}.pop", f"{mapping}.get") and isinstance(key, ast.Constant):
            yield str(key.value)


def from_pretrained(site: Path) -> set[str]:
    """Its own arguments, those of downloads, and the attributes of every model's config, which it overrides."""
    package = site / "transformers"
    factory = package / "models" / "auto" / "auto_factory.py"
    names = parameters(package / "modeling_utils.py", "PreTrainedModel.from_pretrained")
    names |= parameters(factory, "_BaseAutoModelClass.from_pretrained")
    names |= {"attn_implementation", "experts_implementation", "proxies", "repo_type", "user_agent"}
    configs = [package / "configuration_utils.py", *sorted((package / "models").glob("*/configuration_*.py"))]
    for path in configs:
        for body in ast.walk(tree(path)):
            if isinstance(body, ast.ClassDef) and body.name.endswith("Config"):
                names |= set(_fields(body))
    return names - {"model_args", "kwargs"}


def runtime_env(site: Path) -> set[str]:
    """The fields that Ray knows."""
    body = definition(site / "ray" / "runtime_env" / "runtime_env.py", "RuntimeEnv")
    assigned = (each for each in ast.walk(body) if isinstance(each, ast.Assign | ast.AnnAssign))
    for each in assigned:
        target = each.targets[0] if isinstance(each, ast.Assign) else each.target
        if ast.unparse(target) == "known_fields":
            assert each.value is not None
            return {name for name in ast.literal_eval(each.value) if not name.startswith("_")}
    raise LookupError("ray's RuntimeEnv has no known_fields")


def _fields_of(file: str, *classes: str) -> Names:
    return lambda site: set().union(*(annotated(site / file, name) for name in classes))


SOURCES = {
    "autoscaling_config": Source("ray", "AutoscalingConfig", _fields_of("ray/serve/config.py", "AutoscalingConfig")),
    "deployment": Source("ray", "DeploymentSchema", _fields_of("ray/serve/schema.py", "DeploymentSchema")),
    "engine_args": Source(
        "vllm", "AsyncEngineArgs", _fields_of("vllm/engine/arg_utils.py", "EngineArgs", "AsyncEngineArgs")
    ),
    "from_pretrained": Source("transformers", "AutoModelForCausalLM.from_pretrained", from_pretrained),
    "generate": Source(
        "transformers",
        "GenerationConfig",
        lambda site: parameters(site / "transformers/generation/configuration_utils.py", "GenerationConfig.__init__"),
    ),
    "init_inference": Source(
        "deepspeed", "init_inference", _fields_of("deepspeed/inference/config.py", "DeepSpeedInferenceConfig")
    ),
    "llama": Source(
        "llama-cpp-python", "Llama", lambda site: parameters(site / "llama_cpp" / "llama.py", "Llama.__init__")
    ),
    "ray_actor_options": Source(
        "ray", "RayActorOptionsSchema", _fields_of("ray/serve/schema.py", "RayActorOptionsSchema")
    ),
    "runtime_env": Source("ray", "RuntimeEnv", runtime_env),
}


def tables(folders: list[Path]) -> dict[str, dict[str, object]]:
    """Every table, from the first of the folders that has its library."""
    versions: dict[str, tuple[Path, str]] = {}
    for folder in reversed(folders):
        for each in distributions(path=[str(folder)]):
            versions[each.metadata["Name"].lower().replace("_", "-")] = (folder, each.version)
    found: dict[str, dict[str, object]] = {}
    for name, source in sorted(SOURCES.items()):
        folder, version = versions[source.library]
        arguments = sorted(source.names(folder) - {"args", "kwargs"})
        found[name] = {
            "library": source.library,
            "version": version,
            "callable": source.callable,
            "arguments": arguments,
        }
    return found


def main() -> int:
    """Write the tables and say how large they are."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--site", type=Path, help="a folder that has the libraries already")
    options = parser.parse_args()
    installed = Path(sysconfig.get_path("purelib"))
    with tempfile.TemporaryDirectory() as temporary:
        site = options.site or Path(temporary)
        if options.site is None:
            command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", temporary, *VERSIONS]
            subprocess.run(command, check=True)
        found = tables([site, installed])
    TARGET.write_text(json.dumps(found, indent=1) + "\n")
    for name, row in found.items():
        arguments = row["arguments"]
        assert isinstance(arguments, list)
        sys.stdout.write(f"{name}: {len(arguments)} arguments of {row['library']} {row['version']}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
