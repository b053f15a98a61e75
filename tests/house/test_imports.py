"""The rules of the house, read from the source: who imports whom, what is heavy, and what nobody writes."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

PACKAGES = {
    "client": set(),
    "compiler": {"client", "runtime"},
    "runtime": set(),
    "demo": {"runtime"},
    "scripts": {"runtime"},
    "benchmarks": {"compiler", "runtime", "demo"},
}
"""Each package, and the others that it may import."""

LAYERS = {
    "compiler": (
        ("compiler.__init__", "compiler.codes", "compiler.diagnostics", "compiler.exits", "compiler.kept"),
        ("compiler.facts",),
        ("compiler.source",),
        ("compiler.layering",),
        ("compiler.check",),
        ("compiler.lint",),
        ("compiler.lower",),
        ("compiler.emit",),
        ("compiler.build",),
        ("compiler.models",),
        ("compiler.clusters",),
        ("compiler.records",),
        ("compiler.sources",),
        ("compiler.attempt",),
        ("compiler.pipeline",),
        ("compiler.reference",),
        ("compiler.review",),
        ("compiler.edit",),
        ("compiler.report",),
        ("compiler.make",),
        ("compiler.verbs",),
        ("compiler.cli",),
    ),
    "runtime": (
        ("runtime.__init__", "runtime.errors", "runtime.logs", "runtime.phases"),
        ("runtime.schema",),
        ("runtime.engines.spec",),
        ("runtime.engines.hf.__init__",),
        ("runtime.engines.*.__init__",),
        ("runtime.engines.__init__",),
        ("runtime.application",),
        ("runtime.engines.contract",),
        ("runtime.engines.grammar",),
        ("runtime.engines.scheduler", "runtime.engines.prefix"),
        ("runtime.engines.batching", "runtime.engines.embedding"),
        ("runtime.text", "runtime.weights", "runtime.access"),
        ("runtime.engines.hf",),
        ("runtime.engines.*",),
        ("runtime.loading",),
        ("runtime.workers",),
        ("runtime.metrics", "runtime.tracing"),
        ("runtime.api",),
        ("runtime.admission", "runtime.availability", "runtime.deadline", "runtime.meter", "runtime.warmup"),
        ("runtime.replica", "runtime.gateway"),
        ("runtime.node_metrics",),
        ("runtime.serve",),
    ),
}
"""The order of the modules, lowest first. An import points down, or stays in its room: the rooms of one layer do not
know each other. A room is a module or a package with all that is in it, less what has a room of its own; `__init__`
is a package's own file, `*` any one name."""

HEAVY = {
    "aiohttp", "boto3", "botocore", "deepspeed", "fastapi", "huggingface_hub", "jinja2", "llama_cpp", "llguidance",
    "numpy", "opentelemetry", "prometheus_client", "ray", "sentence_transformers", "starlette", "tokenizers", "torch",
    "transformers", "vllm",
}  # fmt: skip
"""Libraries that cost time or memory to load, or that a laptop does not have."""

HEAVY_IN = {
    "compiler/build/cache.py": {"boto3", "botocore"},
    "benchmarks/bare.py": {"llama_cpp", "torch", "transformers"},
    "benchmarks/fast.py": {"ray"},
    "benchmarks/overhead.py": {"aiohttp"},
    "benchmarks/peers.py": {"jinja2"},
    "benchmarks/servers.py": {"aiohttp"},
    "benchmarks/serving.py": {"ray"},
    "benchmarks/streams.py": {"aiohttp"},
    "client/server.py": {"aiohttp"},
    "compiler/layering/template.py": {"jinja2"},
    "compiler/source/expression.py": {"jinja2"},
    "demo/model.py": {"llama_cpp", "torch", "transformers"},
    "runtime/api/body.py": {"starlette"},
    "runtime/api/gate.py": {"starlette"},
    "runtime/api/journal.py": {"starlette"},
    "runtime/api/observed.py": {"opentelemetry", "starlette"},
    "runtime/api/protection.py": {"fastapi", "starlette"},
    "runtime/api/query.py": {"fastapi"},
    "runtime/api/refusal.py": {"starlette"},
    "runtime/api/routes.py": {"fastapi", "opentelemetry", "starlette"},
    "runtime/api/sse.py": {"starlette"},
    "runtime/api/tokens.py": {"fastapi"},
    "runtime/engines/deepspeed/engine.py": {"deepspeed", "torch", "transformers"},
    "runtime/engines/deepspeed/group.py": {"torch", "transformers"},
    "runtime/engines/grammar/matcher.py": {"llguidance", "numpy"},
    "runtime/engines/grammar/trial.py": {"llguidance"},
    "runtime/engines/hf/cache.py": {"torch", "transformers"},
    "runtime/engines/hf/embedding.py": {"sentence_transformers", "torch"},
    "runtime/engines/hf/loading.py": {"torch", "transformers"},
    "runtime/engines/hf/rows.py": {"torch", "transformers"},
    "runtime/engines/hf/runner.py": {"torch"},
    "runtime/engines/hf/sampling.py": {"torch", "transformers"},
    "runtime/engines/hf/tokenizer.py": {"tokenizers", "transformers"},
    "runtime/engines/llama_cpp/embedding.py": {"llama_cpp", "numpy"},
    "runtime/engines/llama_cpp/engine.py": {"llama_cpp"},
    "runtime/engines/llama_cpp/model.py": {"llama_cpp", "numpy"},
    "runtime/engines/single_device/engine.py": {"torch"},
    "runtime/engines/vllm/adapters.py": {"vllm"},
    "runtime/engines/vllm/engine.py": {"vllm"},
    "runtime/gateway.py": {"aiohttp", "fastapi", "opentelemetry"},
    "runtime/metrics.py": {"prometheus_client"},
    "runtime/node_metrics.py": {"ray"},
    "runtime/serve.py": {"ray", "starlette"},
    "runtime/text/sandbox.py": {"jinja2"},
    "runtime/tracing.py": {"opentelemetry"},
    "runtime/weights/hub.py": {"huggingface_hub"},
    "runtime/weights/s3.py": {"boto3", "botocore"},
    "runtime/workers.py": {"ray"},
}
"""The files that exist for them."""

INTO_THE_RUNTIME = {"compiler/verbs/weights.py": {"runtime.errors", "runtime.weights.commands"}}
"""The commands that do what a replica does, and what of it they load when they are run."""

BY_NAME_IN = {"runtime/engines/contract.py": ["importlib.import_module"]}
"""Where modules are imported by a name that is data, which these rules cannot see."""

CATCH_ALL_IN = {"compiler/cli.py": ["main"], "runtime/api/routes.py": ["_events"]}
"""The functions that catch every error."""

VAGUE = {"utils", "helpers", "common", "manager", "misc"}

DANGEROUS = {
    "__import__", "compile", "eval", "exec", "joblib.load", "marshal", "numpy.load", "os.popen", "os.system", "pickle",
    "pty.spawn", "shelve", "subprocess.getoutput", "subprocess.getstatusoutput", "torch.load", "yaml.CLoader",
    "yaml.FullLoader", "yaml.Loader", "yaml.UnsafeLoader", "yaml.full_load", "yaml.load", "yaml.load_all",
    "yaml.unsafe_load", "yaml.unsafe_load_all",
}  # fmt: skip
"""What runs text or bytes as a program."""

PLAIN_YAML = {"yaml.safe_load", "yaml.safe_load_all", "yaml.SafeLoader", "yaml.CSafeLoader"}
PLAIN_YAML_IN = {"benchmarks/peers.py": {"yaml.CSafeLoader"}, "demo/__main__.py": {"yaml.safe_load"}}
"""It takes duplicate keys and alias bombs; the demo reads what this project has written itself."""

TEMPLATES_IN = {
    "benchmarks/peers.py": {"jinja2.Template"},
    "compiler/source/expression.py": {"jinja2.Environment"},
    "runtime/text/sandbox.py": {"jinja2.Template", "jinja2.sandbox.ImmutableSandboxedEnvironment"},
}
"""Where templates are made of text: models' own in the sandbox; the compiler only parses, and runs nothing; a peer."""

FETCHES = {"aiohttp", "boto3", "ftplib", "httpx", "requests", "smtplib", "socketserver", "urllib", "urllib3"}
NO_FETCHING_UNDER = ("runtime/access", "runtime/api", "runtime/engines", "runtime/text")
"""Where requests are handled: nothing there may turn an address in one into a connection."""


def files_under(*folders: str) -> list[str]:
    """Python files, as paths from the root."""
    found = (path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    return sorted(path.relative_to(ROOT).as_posix() for path in found)


def module_of(file: str) -> str:
    return file.removesuffix(".py").replace("/", ".")


FILES = files_under(*PACKAGES)
MODULES = {module_of(file) for file in FILES}


@cache
def tree_of(file: str) -> ast.Module:
    return ast.parse((ROOT / file).read_text(), file)


def imports_of(file: str) -> set[str]:
    """The full name of all that a file imports, wherever it stands in it: a module of ours, or `library.name`."""
    found = set()
    for node in ast.walk(tree_of(file)):
        if isinstance(node, ast.Import):
            found |= {_named(alias.name) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = Path(file).parts[: -node.level] if node.level else ()
            origin = ".".join([*package, *([node.module] if node.module else [])])
            found |= {_named(f"{origin}.{alias.name}") for alias in node.names}
    return found


def _named(name: str) -> str:
    """A name that stands in a module of ours is that module."""
    if name.partition(".")[0] not in PACKAGES:
        return name
    candidates = (name, f"{name}.__init__", name.rpartition(".")[0], f"{name.rpartition('.')[0]}.__init__")
    return next((module for module in candidates if module in MODULES), name)


def our_imports_of(file: str, package: str) -> set[str]:
    return {name for name in imports_of(file) if name.partition(".")[0] == package}


def libraries_of(file: str) -> set[str]:
    return {name.partition(".")[0] for name in imports_of(file)}


def place_of(module: str) -> tuple[int, str]:
    """The layer of a module and its room there, by the narrowest entry of the table that covers it."""
    parts, found = module.split("."), []
    for height, rooms in enumerate(LAYERS[parts[0]]):
        for room in rooms:
            names = room.split(".")
            if len(names) <= len(parts) and all(name in ("*", part) for name, part in zip(names, parts, strict=False)):
                found.append((len(names), -names.count("*"), height, ".".join(parts[: len(names)])))
    assert found, f"{module} has no place in LAYERS"
    *_, height, room = max(found)
    return height, room


def scoped(node: ast.AST, scope: str = "") -> Iterator[tuple[str, ast.AST]]:
    """Every node below, and the function or class that it is in."""
    for child in ast.iter_child_nodes(node):
        yield scope, child
        inner = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
        yield from scoped(child, child.name if inner else scope)


def names_in(node: ast.AST | None) -> set[str]:
    """All dotted names below."""
    nodes = ast.walk(node) if node else ()
    return {ast.unparse(each) for each in nodes if isinstance(each, ast.Name | ast.Attribute)}


def loaded_by(code: str) -> set[str]:
    """The modules that a fresh Python has loaded after `code`."""
    ending = "\nimport sys; print('\\n' + '\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code + ending], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines())


def roots(modules: set[str]) -> set[str]:
    return {module.partition(".")[0] for module in modules}


@pytest.fixture(scope="module")
def light() -> set[str]:
    """Everything that the contract between compiler and runtime loads."""
    return loaded_by("import runtime.application")


@pytest.mark.parametrize("file", FILES)
def test_a_package_imports_only_packages_below(file: str) -> None:
    package = file.partition("/")[0]
    assert libraries_of(file) & {*PACKAGES, "tests"} <= PACKAGES[package] | {package}


@pytest.mark.parametrize("file", files_under(*LAYERS))
def test_an_import_points_down(file: str) -> None:
    height, room = place_of(module_of(file))
    for target in our_imports_of(file, file.partition("/")[0]):
        below, its_room = place_of(target)
        assert below < height or its_room == room, f"{file} imports {target}"


@pytest.mark.parametrize("package", LAYERS)
def test_the_table_of_layers_names_nothing_that_is_gone(package: str) -> None:
    rooms = {place_of(module_of(file)) for file in files_under(package)}
    assert {height for height, _ in rooms} == set(range(len(LAYERS[package])))
    assert {room for layer in LAYERS[package] for room in layer if "*" not in room} <= {room for _, room in rooms}


def test_no_import_goes_in_a_circle() -> None:
    graph = {module_of(file): imports_of(file) & MODULES - {module_of(file)} for file in FILES}
    TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("file", files_under("compiler"))
def test_the_compiler_imports_only_the_light_part_of_the_runtime(file: str, light: set[str]) -> None:
    names = {name.removesuffix(".__init__") for name in our_imports_of(file, "runtime")}
    assert names - light == INTO_THE_RUNTIME.get(file, set())


def test_the_light_part_needs_pydantic_and_nothing_else(light: set[str]) -> None:
    assert not roots(light) & HEAVY
    ours = {module for module in MODULES if module.removesuffix(".__init__") in light}
    needed = set().union(*(libraries_of(f"{module.replace('.', '/')}.py") for module in ours))
    assert needed - sys.stdlib_module_names == {"pydantic", "pydantic_core", "runtime"}


@pytest.mark.parametrize("file", sorted({*FILES, *HEAVY_IN}))
def test_heavy_libraries_are_imported_where_they_belong(file: str) -> None:
    assert libraries_of(file) & HEAVY == HEAVY_IN.get(file, set())


@pytest.mark.parametrize("file", FILES)
def test_modules_are_imported_by_their_names(file: str) -> None:
    found = sorted(name for name in imports_of(file) if name in ("importlib", "importlib.import_module"))
    assert found == BY_NAME_IN.get(file, [])


def test_a_compile_loads_nothing_heavy() -> None:
    loaded = loaded_by("from compiler.cli import main; assert main(['compile', '--check']) in (0, 2)")
    assert "compiler.pipeline" in loaded
    assert not roots(loaded) & HEAVY


def test_help_loads_neither_pydantic_nor_yaml() -> None:
    loaded = loaded_by(
        "from compiler.cli import main\ntry: main(['--help'])\nexcept SystemExit as done: assert not done.code"
    )
    assert "compiler.cli" in loaded
    assert not roots(loaded) & {*HEAVY, "pydantic", "pydantic_core", "yaml", "runtime"}


@pytest.mark.parametrize("file", files_under(*PACKAGES, "tests"))
def test_a_name_says_what_is_inside(file: str) -> None:
    assert not {*Path(file).with_suffix("").parts} & VAGUE


@pytest.mark.parametrize("file", FILES)
def test_errors_are_caught_by_name(file: str) -> None:
    found = []
    for scope, node in scoped(tree_of(file)):
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            found.append(scope)
        caught = node.type if isinstance(node, ast.ExceptHandler) else None
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("suppress"):
            caught = node
        if names_in(caught) & {"Exception", "BaseException"}:
            found.append(scope)
    assert found == CATCH_ALL_IN.get(file, [])


@pytest.mark.parametrize("file", FILES)
def test_nothing_runs_what_it_reads(file: str) -> None:
    assert not names_in(tree_of(file)) & DANGEROUS
    assert not (imports_of(file) | libraries_of(file)) & DANGEROUS
    shells = {
        ast.unparse(node)
        for node in ast.walk(tree_of(file))
        if isinstance(node, ast.keyword) and node.arg == "shell" and ast.unparse(node.value) != "False"
    }
    assert not shells


@pytest.mark.parametrize("file", FILES)
def test_yaml_is_read_by_the_compilers_own_reader(file: str) -> None:
    assert (names_in(tree_of(file)) | imports_of(file)) & PLAIN_YAML == PLAIN_YAML_IN.get(file, set())


@pytest.mark.parametrize("file", sorted({*FILES, *TEMPLATES_IN}))
def test_templates_run_in_the_sandbox(file: str) -> None:
    names = names_in(tree_of(file)) | imports_of(file)
    made = ("Environment", "NativeEnvironment", "SandboxedEnvironment", "ImmutableSandboxedEnvironment", "Template")
    found = {name for name in names if name.startswith("jinja2.") and name.rpartition(".")[2] in made}
    assert found == TEMPLATES_IN.get(file, set())


@pytest.mark.parametrize("file", files_under(*NO_FETCHING_UNDER))
def test_nothing_is_fetched_for_a_request(file: str) -> None:
    assert not libraries_of(file) & FETCHES
    assert "http.client" not in imports_of(file)


@pytest.mark.parametrize("file", FILES)
def test_certificates_are_checked(file: str) -> None:
    switches = {
        f"{node.arg}={ast.unparse(node.value)}"
        for node in ast.walk(tree_of(file))
        if isinstance(node, ast.keyword) and node.arg in ("verify", "ssl", "verify_ssl", "check_hostname")
    }
    assert not {each for each in switches if each.endswith("=False")}
    assert not names_in(tree_of(file)) & {"ssl._create_unverified_context", "ssl.CERT_NONE"}


@pytest.mark.parametrize("file", files_under("runtime"))
def test_no_other_page_may_read_answers(file: str) -> None:
    assert "CORSMiddleware" not in (ROOT / file).read_text()
    assert "access-control-allow" not in (ROOT / file).read_text().lower()
