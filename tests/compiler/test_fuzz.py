"""Whatever is in the files: a compilation or located findings, never a crash, and never for long.

LLM_SERVE_FUZZ asks for more cases of each kind than the five thousand of a test run.
"""

import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import pytest

from compiler.diagnostics import Diagnostic
from compiler.pipeline import check_project, outputs
from compiler.report import printing as report
from compiler.source.project import Project
from compiler.source.tags import TAGS
from tests.compiler.support import write
from tests.compiler.test_cli import run

CASES = int(os.environ.get("LLM_SERVE_FUZZ", "5000"))
REPO = Path(__file__).resolve().parents[2]
SEEDS = [path.read_bytes() for path in (REPO / "tests/compiler/cases").rglob("*.yaml") if path.is_file()]
VOCABULARY = [
    *(f"{tag} ".encode() for tag in TAGS),
    b"!!python/object/apply:os.system ", b"!x ", b"&a ", b"*a", b"<<: ", b"- ", b": ", b"? ", b"{", b"}", b"[",
    b"]", b", ", b"|\n", b">-\n", b"'", b'"', b"#", b"%YAML 1.1\n", b"---\n", b"...\n", b"\n", b"\n  ",
    b"\n    ", b"\t", b"\r", b"\xff", b"\xef\xbb\xbf", b"\0", b"\xe2\x80\xa8", b"{{ model_id }}", b"{% if %}",
    b"null", b"~", b"1e999", b"0x", b"-", b".nan", b"extends: ", b"waive: ", b"enabled: ", b"model_config:",
    b"deployment_config: ", b"model_id: acme/a", b"initialization:", b"initializer: ", b"type: vLLM",
    b"engine_kwargs: ", b"overlay: ", b"models: ", b"runtime_env: ", b"env_vars: ", b"pip: ", b"generation: ",
    b"stopping_sequences: ", b"prompt_format: ", b"acme--b", b"x",
]  # fmt: skip
BASE = b"model_config: {initialization: {initializer: {type: llamaCpp}}, generation: {stopping_sequences: [a]}}\n"
FORBIDDEN = {"os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect", "socket.bind"}


def hostile(make: random.Random) -> bytes:
    """Bytes that may be nearly a config file, or nothing like one."""
    kind = make.randrange(4)
    if kind == 0:
        return make.randbytes(make.randint(0, 60))
    if kind == 1:
        return b"".join(make.choices(VOCABULARY, k=make.randint(1, 30)))
    data = bytearray(make.choice(SEEDS))
    for _ in range(make.randint(1, 3)):
        at = make.randint(0, len(data))
        piece = make.choice(
            [make.choice(VOCABULARY), b"", make.choice(SEEDS)[: make.randint(0, 80)], make.randbytes(1)]
        )
        data[at : at + make.choice([0, 0, 1, 5, 40])] = piece
    return bytes(data)


def check_places(found: list[Diagnostic], files: dict[str, bytes]) -> None:
    """Every place is inside its file."""
    for diagnostic in found:
        for label in (diagnostic.primary, *diagnostic.secondary):
            if label is None:
                continue
            span = label.span
            lines = files[span.file].decode("utf-8", "replace").split("\n")
            assert 1 <= span.line <= len(lines), diagnostic
            assert 1 <= span.column <= len(lines[span.line - 1]) + 1, diagnostic
            assert (span.line, span.column) <= (span.end_line, span.end_column), diagnostic


def compiled(files: dict[str, bytes]) -> list[Diagnostic]:
    """What a compile of these files finds; all that could be printed about it is."""
    project = Project(REPO / "nowhere", _given=files)
    project.__dict__.update(models=[], profiles=[], clusters=[])  # the cached lists of files
    for folder, names in (("registry/clusters/", "clusters"), ("registry/", "models"), ("base/", "profiles")):
        own = [file.removeprefix(folder).removesuffix(".yaml") for file in files if file.startswith(folder)]
        project.__dict__[names] = sorted(name for name in own if names != "models" or "/" not in name)
    compilation = check_project(project)
    if not any(each.code.startswith("E") for each in compilation.found):
        outputs(compilation)
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        report.print_diagnostics(compilation.found, project.line)
        for form in report.FORMATS:
            report.print_for_machines(compilation.found, form, "", {})
    return compilation.found


@pytest.fixture
def events() -> Iterator[Counter[str]]:
    """What Python was asked to do that a compiler has no business with."""
    counted: Counter[str] = Counter()
    active = [True]

    def hook(event: str, _: object) -> None:
        if active[0] and (event in FORBIDDEN):
            counted[event] += 1

    sys.addaudithook(hook)  # for good: Python has no way to take one away
    yield counted
    active[0] = False


def test_any_bytes(events: Counter[str]) -> None:
    outcomes: Counter[bool] = Counter()
    for number in range(CASES):
        make = random.Random(number)
        files = {"base/defaults.yaml": BASE, "registry/acme--b.yaml": b"model_config: {model_id: acme/b}\n"}
        files[make.choice(["registry/acme--a.yaml", "base/x.yaml", "registry/clusters/default.yaml"])] = hostile(make)
        try:
            found = compiled(files)
            check_places(found, files)
        except Exception as error:
            raise AssertionError(f"case {number}: {files}") from error
        outcomes[any(each.code.startswith("E") for each in found)] += 1
    assert outcomes[True] > CASES / 2 and outcomes[False] > 10
    assert not events


@pytest.mark.parametrize("number", range(60))
def test_any_bytes_through_the_command(number: int, tmp_path: Path, capsys) -> None:
    make = random.Random(10**6 + number)
    write(tmp_path, {"base/defaults.yaml": BASE, "registry/acme--a.yaml": hostile(make)})
    verb = make.choice([["compile"], ["compile", "--check"], ["lint"], ["lint", "--fix"], ["ls"], ["fmt"], ["graph"],
                        ["show", "acme--a"], ["explain", "acme--a"]])  # fmt: skip
    assert run(*verb, "--root", str(tmp_path)) in (0, 1, 2)
    assert "Traceback" not in capsys.readouterr().err


@dataclass(frozen=True)
class Defect:
    """A mistake that is planted: the file that it is in, and a word that some finding must say or point at."""

    file: str
    word: str


VALID = {
    "base/defaults.yaml": {"deployment_config": {"autoscaling_config": {"max_replicas": 3}},
                           "model_config": {"generation": {"max_batch_size": 2}}},
    "base/engine.yaml": {"model_config": {"initialization": {"initializer": {
        "type": "vLLM", "engine_kwargs": {"max_model_len": 5}}}}},
    "base/left.yaml": {"extends": "engine", "scaling_config": {"num_workers": 1}},
    "base/right.yaml": {"extends": "engine", "model_config": {"generation": {"stopping_sequences": ["a"]}}},
    "registry/acme--a.yaml": {"extends": ["left", "right"], "model_config": {"model_id": "acme/a"}},
    "registry/acme--b.yaml": {"extends": "acme--a", "model_config": {"model_id": "acme/b", "warmup": True}},
    "registry/acme--c.yaml": {"extends": "right", "model_config": {"model_id": "acme/c"},
                              "deployment_config": {"ray_actor_options": {"num_cpus": 1}}},
}  # fmt: skip
MODELS = [file for file in VALID if file.startswith("registry/")]


def section(content: dict, *path: str) -> dict:
    """The mapping at a path, made where there is none."""
    for key in path:
        if not isinstance(content.get(key), dict):
            content[key] = {}
        content = content[key]
    return content


KNOWN = [
    ((), "model_config"),
    (("scaling_config",), "num_workers"),
    (("deployment_config",), "num_replicas"),
    (("deployment_config", "autoscaling_config"), "max_replicas"),
    (("model_config",), "warmup"),
    (("model_config", "generation"), "prompt_format"),
    (("model_config", "initialization", "initializer", "engine_kwargs"), "max_model_len"),
]


def misspelt(content: dict, make: random.Random) -> str:
    path, key = make.choice(KNOWN)
    at = make.randrange(len(key) - 1)
    wrong = make.choice(
        [key[:at] + key[at + 1 :], key[:at] + "q" + key[at:], key[:at] + key[at + 1] + key[at] + key[at + 2 :]]
    )
    if wrong == key:
        wrong += "s"
    section(content, *path)[wrong] = 1
    return wrong


def value_of(path: tuple[str, ...], *values: object) -> Callable[[dict, random.Random], str]:
    """A defect that sets one of these values."""

    def plant(content: dict, make: random.Random) -> str:
        section(content, *path[:-1])[path[-1]] = make.choice(values)
        return path[-1]

    return plant


def misplaced(content: dict, make: random.Random) -> str:
    section(content, "deployment_config", "autoscaling_config")["max_ongoing_requests"] = 3
    return "max_ongoing_requests"


def unknown_layer(content: dict, make: random.Random) -> str:
    content["extends"] = "leftt"
    return "leftt"


def idle_tag(content: dict, make: random.Random) -> str:
    section(content, "model_config")["model_url"] = Raw(make.choice(["!unset", "!force x"]))
    return "model_url"


class Raw(str):
    """YAML as it is to be written."""


DEFECTS: list[Callable[[dict, random.Random], str]] = [
    misspelt, misspelt, misspelt, misplaced, unknown_layer, idle_tag,
    value_of(("model_config", "generation", "max_batch_size"), "8", 1.5, 0, [], {"a": 1}, True, None),
    value_of(("model_config", "generation", "generate_kwargs"), 3, "x", [1]),
    value_of(("model_config", "generation", "generate_kwargs", "top_p"), 1.5, "a", None, True),
    value_of(("scaling_config", "placement_strategy"), "PAK", 1, None, "pack"),
    value_of(("model_config", "initialization", "initializer", "type"), "vLMM", 3, "transformers"),
    value_of(("model_config", "model_id"), "not a name", 7, None, ["a"]),
    value_of(("deployment_config", "autoscaling_config", "min_replicas"), 9, -1, "one"),
    value_of(("model_config", "initialization", "runtime_env", "env_vars"), {"A": 1}, {"A": True}, []),
    value_of(("model_config", "generation", "prompt_format"), "no placeholder", "{instruction", "{x}", 5),
    value_of(("model_config", "generation", "tool_format"), "herms", 5, ["hermes"], True),
]  # fmt: skip


def as_yaml(value: object, indent: int = 0) -> str:
    """A small writer of block style, so that every value has a line of its own."""
    match value:
        case dict() if value:
            lines = (f"\n{' ' * indent}{key}:{as_yaml(each, indent + 2)}" for key, each in value.items())
            return "".join(lines)
        case Raw():
            return f" {value}"
        case str():
            return f' "{value}"'
        case bool() | None:
            return f" {str(value).lower().replace('none', 'null')}"
        case list():
            return f" [{', '.join(as_yaml(each).strip() for each in value)}]"
    return f" {value}"


def copied(value: object) -> object:
    return {key: copied(each) for key, each in value.items()} if isinstance(value, dict) else value


def planted(make: random.Random) -> tuple[dict[str, bytes], list[Defect]]:
    """A registry with one to three mistakes, each in a model file of its own."""
    contents = copied(VALID)
    assert isinstance(contents, dict)
    files = make.sample(MODELS, make.randint(1, 3))
    defects = [Defect(file, make.choice(DEFECTS)(contents[file], make)) for file in files]
    return {file: f"{as_yaml(content)[1:]}\n".encode() for file, content in contents.items()}, defects


def names(diagnostic: Diagnostic, defect: Defect, files: dict[str, bytes]) -> bool:
    """Whether a finding says the word, or points at a line that does."""
    labels = [
        label for label in (diagnostic.primary, *diagnostic.secondary) if label and label.span.file == defect.file
    ]
    lines = files[defect.file].decode().split("\n")
    pointed = [lines[label.span.line - 1] for label in labels]
    return bool(labels) and any(defect.word in text for text in (diagnostic.message, *pointed))


def test_planted_mistakes_are_found_and_named() -> None:
    missed: list[tuple[int, Defect]] = []
    total = 0
    for number in range(CASES):
        files, defects = planted(random.Random(number))
        try:
            found = compiled(files)
            check_places(found, files)
        except Exception as error:
            raise AssertionError(f"case {number}: {files}") from error
        errors = [each for each in found if each.code.startswith("E")]
        assert errors, f"case {number}: nothing found of {defects}"
        total += len(defects)
        missed += [(number, each) for each in defects if not any(names(error, each, files) for error in errors)]
    assert len(missed) <= total / 100, f"{len(missed)} of {total} mistakes are not named: {missed[:5]}"


def nested(text: bytes) -> bytes:
    return b"".join(text.replace(b"#", str(number).encode()) for number in range(100_000))


BOMBS: dict[str, bytes | Callable[[Path], object]] = {
    "aliases": b"a0: &a0 [x, x]\n" + b"".join(b"a%d: &a%d [*a%d, *a%d]\n" % (n, n, n - 1, n - 1) for n in range(1, 30)),
    "an alias of itself": b"&a [*a]\n",
    "brackets": b"[" * 100_000,
    "braces": b"{" * 100_000,
    "dashes": b"- " * 20_000,
    "a long key": b"k" * 300_000 + b": 1\n",
    "many keys": nested(b"k#: 1\n"),
    "as many keys as are read": nested(b"k#: 1\n")[: 250 * 1024],
    "long arguments": b"model_config: {initialization: {initializer: {type: vLLM, engine_kwargs: {"
    + b", ".join(b"max_modle%d: 1" % number for number in range(4900)) + b"}}}}\n",
    "digits": b"a: " + b"9" * 5000 + b"\n",
    "tags": b"a: [" + b"!unset , " * 25_000 + b"]\n",
    "a deep template": b"a: !template '{{ " + b"(" * 400 + b"1" + b")" * 400 + b" }}'\n",
    "a long template": b"a: !template '" + b"{{ model_id }}" * 15_000 + b"'\n",
    "many templates": nested(b"k#: !template '{{ model_id }}'\n")[: 250 * 1024],
    "finals": b"a: !final {" + b", ".join(b"k%d: !final 1" % number for number in range(4900)) + b"}\n",
    "layers": b"extends: [" + b", ".join(b"a%d" % number for number in range(4900)) + b"]\n",
    "secrets": nested(b"a#_token: hf_0123456789abcdefghij\n")[: 250 * 1024],
    "a gigabyte": lambda file: (file.touch(), os.truncate(file, 2**30)),
    "a pipe": os.mkfifo,
    "a device": lambda file: file.symlink_to("/dev/zero"),
}  # fmt: skip


MEASURED = """
import resource, subprocess, sys
code = subprocess.run([sys.executable, "-m", "compiler.cli", "compile", "--check", "--root", sys.argv[1]]).returncode
use = resource.getrusage(resource.RUSAGE_CHILDREN)
print()
print(code, use.ru_utime + use.ru_stime, use.ru_maxrss / 1024)
"""
"""A small process between pytest and the compile: Linux counts what the parent had in memory as the child's peak."""


def spent(root: Path) -> tuple[int, float, float, str]:
    """Exit code, CPU seconds, peak memory in MB and errors of a compile in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(root)], cwd=REPO, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    code, seconds, megabytes = done.stdout.rstrip().rpartition("\n")[2].split()
    return int(code), float(seconds), float(megabytes), done.stderr


@pytest.fixture(scope="module")
def floor(tmp_path_factory) -> float:
    """CPU seconds of a compile with nothing in it."""
    root = write(tmp_path_factory.mktemp("floor"), {"registry/acme--a.yaml": BASE})
    return min(spent(root)[1] for _ in range(2))


@pytest.mark.parametrize("name", BOMBS)
def test_bombs(name: str, floor: float, tmp_path: Path) -> None:
    root = write(tmp_path, {"base/defaults.yaml": BASE})
    (root / "registry").mkdir()
    file, bomb = root / "registry" / "acme--a.yaml", BOMBS[name]
    file.write_bytes(bomb) if isinstance(bomb, bytes) else bomb(file)
    code, seconds, megabytes, errors = spent(root)
    assert code == 1 and "error[E" in errors and "Traceback" not in errors
    assert megabytes < 150
    assert seconds - floor < 1.0, f"{seconds:.2f} s of CPU, {floor:.2f} without it"
