"""Whatever happened before, a build leaves what a build from nothing makes; and if it dies, nothing is half-done."""

import errno
import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from compiler.build import generations, keys, publish, snapshot
from compiler.build.store import Store
from compiler.cli import main
from compiler.diagnostics import ConfigErrors
from compiler.make import Listener, Made, make
from compiler.pipeline import Settings, check_project, outputs
from compiler.source.project import Project
from tests.compiler import child
from tests.compiler.support import write

REPO = Path(__file__).resolve().parents[2]
PROJECTS, EDITS = 30, 12
KILLS = 300

Files = dict[str, str]


def generated(root: Path) -> dict[str, bytes]:
    """Everything under generated/."""
    found = (path for path in (root / "generated").rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in found}


def from_nothing(root: Path) -> dict[str, bytes]:
    return outputs(check_project(Project(root)))


def build(root: Path) -> Made:
    return make(root, Listener())


# Incremental is the same as from nothing


def random_registry(random_: random.Random) -> Files:
    """A small project, with models on models, clusters with overlays, disabled models, waivers; sometimes mistakes."""
    files = {"base/defaults.yaml": "model_config: {initialization: {initializer: {type: vLLM}}}\n"}
    profiles = random_.sample(["x", "y/x", "y/z", "a"], random_.randrange(4))
    files |= {f"base/{name}.yaml": setting(random_) for name in profiles}
    names = sorted(random_.sample("abcdef", random_.randrange(2, 6)))
    for name in names:
        below = [other for other in (*profiles, *names) if other > name or other in profiles]
        files[f"registry/{name}.yaml"] = model(random_, name, below)
    for name in random_.sample("abcdef", random_.randrange(3)):
        files[f"registry/locks/{name}.yaml"] = lock(random_, name)
    for name in random_.sample(["default", "small"], random_.randrange(3)):
        overlay = random_.choice(["", f"overlay:\n  {setting(random_).strip()}\n"])
        pattern = rarely(random_, "zz", random_.choice(["*", names[0], "[b-d]*", "?"]))
        locks = random_.choice(["", "", "", "require_locks: true\n"])
        files[f"registry/clusters/{name}.yaml"] = f'models: ["{pattern}"]\n{locks}{overlay}'
    return files


def lock(random_: random.Random, name: str) -> str:
    digest = random_.choice("ab") * 64
    files = f"files: [{{path: model.safetensors, size: 8, sha256: {digest}}}]"
    return f"repository: acme/{rarely(random_, 'x', name)}\nrevision: main\ncommit: {'c' * 40}\n{files}\n"


def rarely(random_: random.Random, bad: str, good: str) -> str:
    return bad if random_.random() < 0.03 else good


def setting(random_: random.Random) -> str:
    number = 1 + random_.randrange(3)
    good = random_.choice(
        [
            f"model_config: {{generation: {{max_batch_size: {number}}}}}\n",
            f"scaling_config: {{resources_per_worker: {{node_{number}: 1}}}}\n",
            f"model_config: {{max_input_words: {number}}}\n",
        ]
    )
    return rarely(random_, f"model_config: {{max_inputt_words: {number}}}\n", good)


def model(random_: random.Random, name: str, below: list[str]) -> str:
    layer = rarely(random_, "nothing", random_.choice(below)) if below and random_.random() < 0.6 else ""
    extends = f"extends: {layer}\n" if layer else ""
    waive = random_.choice(["", "", "waive: {W201: it is}\n"])
    model_id = random_.choice([name, name, name, "b"])
    own = random_.choice(
        [
            "",
            f", generation: {{max_batch_size: {1 + random_.randrange(3)}}}",
            ', generation: {prompt_format: "for b: {instruction}"}',
        ]
    )
    enabled = random_.choice(["", "", "enabled: false\n"])
    return extends + waive + enabled + rarely(random_, "a: [\n", f"model_config: {{model_id: acme/{model_id}{own}}}\n")


def change(random_: random.Random, root: Path, files: Files) -> None:
    """Replace some files by others of the same kind, add and remove some, or only touch or comment one."""
    other = random_registry(random_)
    for name in random_.sample(sorted({*files, *other}), min(3, len({*files, *other}))):
        match random_.randrange(4):
            case 0 if name in files:
                first, _, rest = files[name].partition("\n")
                remark = "# a remark"
                files[name] = random_.choice(
                    [f"{first}\n{rest}{remark}\n", f"{first}  {remark}\n{rest}", f"{remark}\n{first}\n{rest}"]
                )
            case 1 if name in other:
                files[name] = other[name]
            case 2 if name in files and name != "base/defaults.yaml":
                del files[name]
            case _ if name in files:
                os.utime(root / name)
    for path in [*root.glob("base/**/*.yaml"), *root.glob("registry/**/*.yaml")]:
        if path.relative_to(root).as_posix() not in files:
            path.unlink()
    write(
        root,
        {name: text for name, text in files.items() if not (root / name).exists() or (root / name).read_text() != text},
    )


def test_after_any_edits_a_build_is_as_one_from_nothing(tmp_path: Path) -> None:
    outcomes = []
    for seed in range(PROJECTS):
        random_, root = random.Random(seed), tmp_path / str(seed)
        files = random_registry(random_)
        write(root, files | {"registry/.keep": ""})
        for _ in range(EDITS):
            expected = check_project(Project(root))
            before = generated(root)
            try:
                made = build(root)
            except ConfigErrors as errors:
                assert as_text(errors.diagnostics) == as_text(expected.found), f"seed {seed}: {files}"
                assert generated(root) == before
                outcomes.append("failed")
            else:
                assert as_text(made.found) == as_text(expected.found), f"seed {seed}: {files}"
                assert generated(root) == outputs(expected), f"seed {seed}: {files}"
                assert made.compilation.unlocked == expected.unlocked, f"seed {seed}: {files}"
                outcomes.append("built")
            change(random_, root, files)
    assert min(outcomes.count("built"), outcomes.count("failed")) > len(outcomes) / 10, "the edits show one side only"


def as_text(found: object) -> list[str]:
    return sorted(map(repr, found))  # type: ignore[call-overload]


def test_several_processes_build_the_same(tmp_path: Path) -> None:
    """So many models that other processes are worth it, some with findings, two with errors."""
    files = {"base/defaults.yaml": "model_config: {initialization: {initializer: {type: vLLM}}}\n"}
    for number in range(520):
        own = f"max_input_words: {number % 500}"  # 0 is an error
        files[f"registry/m{number:03}.yaml"] = f"model_config: {{model_id: acme/m{number:03}, {own}}}\n"
    write(tmp_path, files)
    alone, together = (check_project(Project(tmp_path), None, Settings(jobs=jobs)) for jobs in (1, 2))
    assert as_text(alone.found) == as_text(together.found)
    assert sum(each.code == "E304" for each in alone.found) == 2
    for name in ("m000", "m500"):
        (tmp_path / f"registry/{name}.yaml").unlink()
    alone, together = (check_project(Project(tmp_path), None, Settings(jobs=jobs)) for jobs in (1, 2))
    assert outputs(alone) == outputs(together)
    assert len(together.built) == 518


# What is written


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    """A copy of the shipped registry that has been built."""
    for folder in ("base", "registry"):
        shutil.copytree(REPO / folder, tmp_path / folder)
    build(tmp_path)
    return tmp_path


def edit(root: Path, file: str, old: str, new: str) -> None:
    text = (root / file).read_text()
    assert old in text
    (root / file).write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param("", "", id="nothing"),
        pytest.param("type: vLLM", "type: vLLM   # the engine", id="a comment"),
        pytest.param("max_model_len: 8192", "max_model_len: 0x2000", id="another way to say it"),
    ],
)
def test_an_edit_without_effect_writes_nothing(registry: Path, old: str, new: str) -> None:
    times = {path: path.stat().st_mtime_ns for path in (registry / "generated").rglob("*")}
    edit(registry, "base/engines/vllm.yaml", old, new)
    assert build(registry).differences == []
    assert {path: path.stat().st_mtime_ns for path in (registry / "generated").rglob("*")} == times


def test_a_profile_that_says_the_same_in_the_same_places_builds_nothing(registry: Path) -> None:
    edit(registry, "base/defaults.yaml", "max_new_tokens: 512", "max_new_tokens: 512  # enough")
    made = build(registry)
    assert (made.compilation.built, made.differences, len(made.compilation.carried)) == ([], [], 22)
    edit(registry, "base/defaults.yaml", "max_new_tokens: 512", "max_new_tokens: 513")
    assert len(build(registry).compilation.built) == 22
    edit(registry, "base/defaults.yaml", "max_new_tokens: 513", "max_new_tokens: 512")
    made = build(registry)
    assert (made.compilation.built, made.compilation.carried) == ([], []), "known since the comment came"
    assert generated(registry) == generated(REPO)


def test_a_finding_moves_with_the_line_of_a_profile_that_it_shows(tmp_path: Path) -> None:
    files = {
        "base/defaults.yaml": "model_config: {initialization: {initializer: {type: vLLM}}, max_input_words: 1}\n",
        "registry/a.yaml": "model_config: {model_id: acme/a, max_input_words: 1}\n",
    }
    write(tmp_path, files)
    for remarks in range(3):
        write(tmp_path, {"base/defaults.yaml": "# a remark\n" * remarks + files["base/defaults.yaml"]})
        (found,) = (each for each in build(tmp_path).found if each.code == "W201")
        assert found.secondary[0].span.line == 1 + remarks


def test_only_what_an_edit_concerns_is_built(registry: Path) -> None:
    edit(registry, "registry/mosaicml--mpt-7b-chat.yaml", "model_config:", "model_config:\n  max_input_words: 800")
    made = build(registry)
    assert made.compilation.built == ["mosaicml--mpt-7b-chat"]
    assert [each.path for each in made.differences] == [
        "generated/clusters/gpu.yaml",
        "generated/models/mosaicml--mpt-7b-chat.yaml",
        "generated/manifest.json",
    ]


def test_what_was_built_once_is_not_built_again(registry: Path) -> None:
    file = registry / "base/defaults.yaml"
    before = file.read_text()
    edit(registry, "base/defaults.yaml", "max_new_tokens: 512", "max_new_tokens: 513")
    assert len(build(registry).compilation.built) == 22
    file.write_text(before)
    made = build(registry)
    assert made.compilation.built == []
    assert made.differences, "the files of before come from the store"


def test_a_model_that_nothing_needs_any_more_is_judged_again(tmp_path: Path) -> None:
    """`b` says what it inherits, and needs to for the sake of `a`, which has another layer in between."""
    files = {
        "base/defaults.yaml": "model_config: {initialization: {initializer: {type: vLLM}}, max_input_words: 1}\n",
        "base/two.yaml": "model_config: {max_input_words: 2}\n",
        "registry/b.yaml": "model_config: {model_id: acme/b, max_input_words: 1}\n",
        "registry/a.yaml": "extends: [two, b]\nmodel_config: {model_id: acme/a}\n",
    }
    write(tmp_path, files)
    assert "W201" not in {each.code for each in build(tmp_path).found}
    write(tmp_path, {"registry/a.yaml": "extends: two\nmodel_config: {model_id: acme/a}\n"})
    assert "W201" in {each.code for each in build(tmp_path).found}
    write(tmp_path, {"registry/a.yaml": files["registry/a.yaml"]})
    assert "W201" not in {each.code for each in build(tmp_path).found}


def test_another_compiler_believes_nothing_of_the_last_one(registry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(registry)
    for table in ("checked", "cluster", "model"):
        store.write(f"UPDATE {table} SET found = 'in a form of its own'", [()])
    store.close()
    monkeypatch.setattr(keys, "compiler_digest", lambda: "another")
    made = build(registry)
    assert len(made.compilation.built) == 22
    assert (made.found, made.differences) == ([], [])


def test_what_a_killed_build_was_writing_goes(registry: Path) -> None:
    for folder in ("generated/models", "registry"):  # there by a build, here by `fmt` or `lint --fix`
        write(registry, {f"{folder}/{publish.temporary_name('acme--gone.yaml')}": "half"})
    assert main(["compile", "--check", "--root", str(registry)]) == 0, "neither is a model, nor an extra file"
    assert build(registry).differences == []
    assert generated(registry) == generated(REPO)


def test_two_edits_within_a_tick_of_the_clock_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "model_config: {{model_id: acme/a, max_input_words: {}, initialization: {{initializer: {{type: vLLM}}}}}}\n"
    file = write(tmp_path, {"registry/a.yaml": text.format(1)}) / "registry/a.yaml"
    times = (file.stat().st_atime_ns, file.stat().st_mtime_ns)
    a_tick_later = times[1] + 10_000_000  # by the clock, however late the build begins
    monkeypatch.setattr(snapshot, "now_ns", lambda: a_tick_later)
    build(tmp_path)
    with file.open("r+") as stream:  # the same inode and size, and the same time of change
        stream.write(text.format(2))
    os.utime(file, ns=times)
    build(tmp_path)
    assert "max_input_words: 2" in (tmp_path / "generated/models/a.yaml").read_text()


# One digest


@pytest.mark.parametrize("number", range(20))
def test_a_build_is_a_function_of_its_sources(number: int, tmp_path: Path) -> None:
    root = tmp_path / f"a folder {number}" / ("x" * 5 * number)
    shutil.copytree(REPO / "registry", root / "registry")
    shutil.copytree(REPO / "base", root / "base")
    random_ = random.Random(number)
    for path in random_.sample(sorted(root.rglob("*.yaml")), 10):  # another order in the folder, and other times
        text = path.read_bytes()
        path.unlink()
        path.write_bytes(text)
        os.utime(path, (number, 10**9 + number))
    environment = {
        "PATH": "",
        "PYTHONHASHSEED": str(number),
        "LC_ALL": ["C", "C.UTF-8", "POSIX"][number % 3],
        "TZ": ["UTC", "Asia/Tokyo", "America/New_York"][number % 3],
        "PYTHONPATH": str(REPO),
    }
    where = [root, root / "registry", tmp_path][number % 3]
    options = ["--root", str(root)] if where == tmp_path else []
    program = (
        f"import os, sys; os.umask({[0o022, 0o077, 0][number % 3]}); from compiler.cli import main; sys.exit(main())"
    )
    command = [sys.executable, "-c", program, "compile", *options]
    subprocess.run(command, cwd=where, env=environment, check=True, capture_output=True)
    assert generated(root) == generated(REPO)
    assert all(path.stat().st_mode & 0o777 == 0o644 for path in (root / "generated").rglob("*.*"))


# Killed, refused, and all at once


def prepare(root: Path) -> None:
    """A project that was built, and whose sources have changed since: one model more, one less, the others others."""
    engine = "  initialization: {{initializer: {{type: vLLM}}}}\n"
    text = "model_config:\n  model_id: acme/{0}\n  max_input_words: {1}\n" + engine
    write(root, {f"registry/{name}.yaml": text.format(name, 1) for name in "abcd"})
    build(root)
    (root / "registry/d.yaml").unlink()
    write(root, {f"registry/{name}.yaml": text.format(name, 2) for name in "abce"})


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("prepared")
    prepare(root)
    return root


def copy(prepared: Path, to: Path) -> dict[str, bytes]:
    """A fresh copy; what is in its generated/."""
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(prepared, to)
    return generated(to)


def check_after(root: Path, before: dict[str, bytes]) -> None:
    """Every visible file is wholly old or wholly new, and the next build repairs all."""
    new = from_nothing(root)
    for path, data in generated(root).items():
        hidden = path.rpartition("/")[2].startswith(".")
        assert hidden or data in (before.get(path), new.get(path)), path
    assert main(["compile", "--root", str(root)]) == 0
    assert generated(root) == new, "and nothing is left lying about"
    store = Store(root)
    assert generations.damage(store) == []
    store.close()


def test_killed_at_every_write(prepared: Path, tmp_path: Path) -> None:
    root, number, code = tmp_path / "copy", 0, -signal.SIGKILL
    while code == -signal.SIGKILL:
        number += 1
        before = copy(prepared, root)

        def compile_and_die(number: int = number) -> int:
            child.at_each_write(lambda: os.kill(os.getpid(), signal.SIGKILL), number)
            return child.compile_in(root)()

        code, printed = child.run(compile_and_die)
        assert code in (-signal.SIGKILL, 0), printed
        check_after(root, before)
    assert number > 60, "a build touches the disk more often than that"


def test_killed_at_any_moment(prepared: Path, tmp_path: Path) -> None:
    random_, root, killed = random.Random(1), tmp_path / "copy", 0
    for _ in range(KILLS):
        before = copy(prepared, root)
        code, printed = child.run(child.compile_in(root), kill_after=random_.uniform(0, 0.12))
        assert code in (-signal.SIGKILL, 0), printed
        killed += code != 0
        check_after(root, before)
    assert killed > KILLS / 10, "most builds were done before they were killed"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EACCES], ids=errno.errorcode.get)
def test_a_disk_that_refuses_at_every_call(number: int, prepared: Path, tmp_path: Path) -> None:
    root, call, harmless, printed = tmp_path / "copy", 0, 0, "STRUCK"

    def refuse() -> None:
        sys.stderr.write("STRUCK\n")
        if sys._getframe(2).f_code.co_name.startswith("execute"):
            raise sqlite3.OperationalError("database or disk is full" if number == errno.ENOSPC else "disk I/O error")
        raise OSError(number, os.strerror(number), "somewhere")

    while "STRUCK" in printed:
        call += 1
        before = copy(prepared, root)

        def compile_on_a_bad_disk(call: int = call) -> int:
            child.at_each_write(refuse, call)
            return child.compile_in(root)()

        code, printed = child.run(compile_on_a_bad_disk)
        if code:
            assert code == 1, printed
            assert "error[E501]: cannot " in printed, printed
            assert "generated" in printed or ".llm-serve" in printed, printed
            assert not [path for path in generated(root) if path.rpartition("/")[2].startswith(".")], "left lying about"
        harmless += code == 0 and "STRUCK" in printed
        check_after(root, before)
    assert call > 60
    assert harmless <= 2, "making a folder that is there already"


def test_a_disk_that_really_refuses(prepared: Path, tmp_path: Path) -> None:
    before = copy(prepared, tmp_path / "copy")
    for size in (0, 1, 1000, 5000, 50_000):

        def compile_with_little_room(size: int = size) -> int:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
            return child.compile_in(tmp_path / "copy")()

        code, printed = child.run(compile_with_little_room)
        assert code == 1 or size == 50_000, printed
        assert code == 0 or "Traceback" not in printed
        new = from_nothing(tmp_path / "copy")
        assert all(data in (before.get(path), new.get(path)) for path, data in generated(tmp_path / "copy").items())
    check_after(tmp_path / "copy", before)


def test_many_builds_at_once(prepared: Path, tmp_path: Path) -> None:
    """Eight processes with 25 builds each, every second one of other sources."""
    copy(prepared, tmp_path / "copy")
    root, file = tmp_path / "copy", tmp_path / "copy/registry/a.yaml"
    texts = [file.read_text(), file.read_text().replace("words: 2", "words: 3")]

    def build_often(number: int) -> Callable[[], int]:
        def often() -> int:
            codes = set()
            for count in range(25):
                if number == 0:
                    (root / "new").write_text(texts[count % 2])
                    (root / "new").replace(file)
                codes.add(main(["compile", "--root", str(root)]))
            return max(codes)

        return often

    processes = []
    for number in range(8):
        process = os.fork()
        if process == 0:
            os._exit(build_often(number)())
        processes.append(process)
    assert [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in processes] == [0] * 8
    check_after(root, generated(root))


HOSTILE = [
    "..",
    ".",
    "-rf",
    "~",
    "C:",
    "a\\b",
    "%2e%2e",
    "a b",
    "\u202e",
    "\u2024\u2024",
    "\n",
    "x" * 240,
    "$(id)",
    "generated",
    "é",
]


def test_no_name_leads_out_of_the_tree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, random_ = tmp_path / "root", random.Random(1)
    made = ["".join(random_.choices("a.-_/\\~%2eC: \t\u2024", k=random_.randrange(1, 12))) for _ in range(500)]
    for name in (*HOSTILE, *(each.replace("/", "") for each in made)):
        shutil.rmtree(root, ignore_errors=True)
        model_id = random_.choice(["acme/a", "../../x", "/etc/passwd", name.replace("\n", " ")])
        text = f"model_config: {{model_id: '{model_id}', initialization: {{initializer: {{type: vLLM}}}}}}\n"
        write(root, {f"registry/{name}.yaml": text})
        assert main(["compile", "--root", str(root)]) in (0, 1)
        printed = capsys.readouterr()
        assert "internal error" not in printed.err
        assert sorted(path.name for path in tmp_path.iterdir()) == ["root"]
        assert {path.name for path in root.iterdir()} <= {"registry", "generated", ".llm-serve"}
        assert len(list((root / "registry").rglob("*"))) == 1
        models = root / "generated/models"
        assert not models.exists() or [path.name for path in models.iterdir()] == [f"{name}.yaml"]


@pytest.mark.parametrize("target", ["../outside.yaml", "../../outside.yaml", "/etc/passwd", "nowhere", "acme--a.yaml"])
def test_a_link_does_not_lead_out_of_the_tree(target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "root"
    text = "model_config: {model_id: acme/secret, initialization: {initializer: {type: vLLM}}}\n"
    write(tmp_path, {"outside.yaml": text, "root/outside.yaml": text, "root/registry/b.yaml": text})
    (root / "registry/acme--a.yaml").symlink_to(target)
    assert main(["compile", "--root", str(root)]) == 1
    assert "error[E10" in capsys.readouterr().err
    assert not (root / "generated").exists()


def test_a_link_within_the_tree_is_followed(tmp_path: Path) -> None:
    text = "model_config: {{model_id: acme/a, max_input_words: {}, initialization: {{initializer: {{type: vLLM}}}}}}\n"
    write(tmp_path, {"base/a.yaml": text.format(1)})
    (tmp_path / "registry").mkdir()
    (tmp_path / "registry/acme--a.yaml").symlink_to("../base/a.yaml")
    build(tmp_path)
    write(tmp_path, {"base/a.yaml": text.format(2)})
    assert build(tmp_path).differences[0].path == "generated/models/acme--a.yaml"


def test_a_compile_asks_nothing_of_the_world(registry: Path) -> None:
    """No socket, no process, nothing read or written elsewhere."""
    edit(registry, "base/defaults.yaml", "max_new_tokens: 512", "max_new_tokens: 513")
    seen = registry / "events"

    def compile_and_listen() -> int:
        events: set[str] = set()
        inside = [str(registry / each) for each in ("base", "registry", "generated", ".llm-serve")]
        package = [str(REPO / "compiler"), str(REPO / "runtime")]
        git = [str(each / ".git") for each in (registry, *registry.parents)]

        def hook(event: str, arguments: tuple[object, ...]) -> None:
            if event.startswith(
                ("socket.", "subprocess.", "os.exec", "os.spawn", "os.posix_spawn", "os.system")
            ) or event in (
                "os.fork",
                "os.forkpty",
            ):
                events.add(event)
            paths = {"open": 1, "os.rename": 2, "os.remove": 1, "os.mkdir": 1, "os.scandir": 1, "sqlite3.connect": 1}
            for path in arguments[: paths.get(event, 0)]:
                text = os.fspath(path) if isinstance(path, str | os.PathLike) else ""
                reads = event in ("open", "os.scandir") and not (event == "open" and int(str(arguments[2])) & 3)
                allowed = [*inside, *(package + git if reads else [])]
                python = reads and text.startswith((sys.prefix, sys.base_prefix)) and not text.startswith(str(registry))
                if text and not python and not any(text == each or text.startswith(f"{each}/") for each in allowed):
                    events.add(f"{event} {text}")

        sys.addaudithook(hook)
        code = child.compile_in(registry)()
        found = "\n".join(sorted(events))
        sys.stdout.write(f"EVENTS {found}\n")
        return code

    code, printed = child.run(compile_and_listen)
    assert code == 0, printed
    assert "EVENTS \n" in printed, printed
    assert not seen.exists()
