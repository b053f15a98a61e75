"""`lock` and `weights`, over the hub's and S3's protocols on loopback."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from compiler.cli import main
from tests.compiler.support import write
from tests.runtime.weights.conftest import bucket, cache, moto_port, s3
from tests.runtime.weights.models import write_model
from tests.runtime.weights.servers import FaultProxy, HubStub, closing

__all__ = ["cache", "moto_port", "s3"]
MODEL = "model_config: {model_id: acme/model, initialization: {initializer: {type: SingleDevice}}}\n"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubStub]:
    stub = HubStub("acme/model", write_model(tmp_path / "source", 100_000))
    monkeypatch.setenv("HF_ENDPOINT", stub.url)
    with closing(stub):
        yield stub


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return write(tmp_path / "project", {"registry/acme--model.yaml": MODEL})


def run(project: Path, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    code = main([*words, "--root", str(project)])
    printed = capsys.readouterr()
    return code, printed.out + printed.err


def test_a_model_is_locked_compiled_and_its_drift_is_told(hub: HubStub, project: Path, capsys) -> None:
    assert run(project, capsys, "lock", "--check") == (2, "  acme--model has no lock\n0 models of 1 locked\n")
    code, printed = run(project, capsys, "lock")
    file = "registry/locks/acme--model.yaml"
    assert (code, printed) == (0, f"wrote {file}: commit {hub.commit[:12]}, 3 files, 0.00 GB\n")
    text = (project / file).read_text()
    assert hub.commit in text and "  architecture: LlamaForCausalLM\n" in text
    assert run(project, capsys, "lock", "--check") == (0, "1 model of 1 locked\n")
    assert run(project, capsys, "compile")[0] == 0
    assert hub.commit in (project / "generated/models/acme--model.yaml").read_text()
    assert run(project, capsys, "lock", "acme/model") == (0, f"{file}: is what is there\n")

    before, hub.commit = hub.commit, "d" * 40
    hub.files["config.json"] += b" "
    code, printed = run(project, capsys, "lock")
    assert code == 2
    assert f"main of acme/model: commit {before[:12]} -> dddddddddddd\n" in printed
    assert (
        "config.json: changed, 242 -> 243 bytes" in printed.replace("241", "242") or "config.json: changed" in printed
    )
    assert (project / file).read_text() == text, "a lock moved without --update"
    code, printed = run(project, capsys, "lock", "--update", "acme--model")
    assert code == 0 and f"wrote {file}: commit dddddddddddd" in printed
    assert run(project, capsys, "compile")[0] == 0


def test_a_lock_that_does_not_fit_can_be_written_anew(hub: HubStub, project: Path, capsys) -> None:
    assert run(project, capsys, "lock")[0] == 0
    lock = project / "registry/locks/acme--model.yaml"
    lock.write_text(lock.read_text().replace("repository: acme/model", "repository: acme/other"))
    code, printed = run(project, capsys, "lock", "--check")
    assert code == 1 and "E601" in printed
    assert "`llm-serve lock --update acme--model`" in printed
    assert run(project, capsys, "lock", "--update", "acme--model")[0] == 0
    assert run(project, capsys, "lock", "--check")[0] == 0
    lock.write_text("commit: main\n")
    assert run(project, capsys, "lock", "acme--model")[0] == 1
    assert run(project, capsys, "lock", "--update", "acme--model")[0] == 0
    assert run(project, capsys, "lock", "--check")[0] == 0
    lock.write_text("<<<<<<< ours: [\n")
    assert run(project, capsys, "lock", "--update", "acme--model")[0] == 0
    assert run(project, capsys, "lock", "--check")[0] == 0


def test_a_mirror_is_filled_and_used(
    hub: HubStub, project: Path, s3: FaultProxy, capsys, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = f"{{bucket_uri: 's3://models/m/', endpoint_url: '{s3.url}'}}"
    config = MODEL.replace("initialization: {", f"initialization: {{s3_mirror_config: {mirror}, ")
    (project / "registry/acme--model.yaml").write_text(config)
    assert run(project, capsys, "lock")[0] == 0
    assert run(project, capsys, "weights", "push", "acme--model") == (
        0,
        "acme--model: sent 3 files to s3://models/m/\n",
    )
    listed = bucket(s3).list_objects_v2(Bucket="models")["Contents"]
    assert {each["Key"] for each in listed} == {"m/hash", *(f"m/{name}" for name in hub.files)}
    (cache / "models--acme--model").rename(cache / "away")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    code, printed = run(project, capsys, "weights", "pull", "acme--model")
    assert code == 0 and f"acme--model: in {cache}/models--acme--model/views/{hub.commit}/" in printed
    code, printed = run(project, capsys, "weights", "verify", "acme--model")
    assert code == 0 and "whole and verified" in printed

    code, printed = run(project, capsys, "weights", "ls", "--format", "json")
    (snapshot,) = json.loads(printed)
    assert (snapshot["repository"], snapshot["commit"], snapshot["is_used"]) == ("acme/model", hub.commit, True)
    code, printed = run(project, capsys, "weights", "ls")
    assert "acme/model" in printed and f"1 snapshot in {cache}\n" in printed
    assert run(project, capsys, "weights", "gc", "--keep-bytes", "0") == (0, "removed 0 snapshots\n"), "it is in use"


def test_a_folder_as_mirror(hub: HubStub, project: Path, capsys, tmp_path: Path) -> None:
    target = tmp_path / "mirror"
    assert run(project, capsys, "weights", "push", "acme--model", "--to", str(target))[0] == 0
    assert (target / "hash").read_text() == f"{hub.commit}\n"
    assert {path.name for path in target.iterdir()} == {"hash", *hub.files}


def test_what_cannot_be_done_is_said_in_a_line(hub: HubStub, project: Path, capsys) -> None:
    assert run(project, capsys, "weights", "pull")[1] == "llm-serve: which model? Name one or more files of registry/\n"
    code, printed = run(project, capsys, "weights", "pull", "acme--modl")
    assert code == 1 and "did you mean `acme--model`?" in printed
    code, printed = run(project, capsys, "weights", "push", "acme--model")
    assert code == 1 and "registry/acme--model.yaml names no mirror; say which with `--to s3" in printed
    code, printed = run(project, capsys, "weights", "gc")
    assert code == 1 and "how much may stay? Say `--keep-bytes`, or set LLM_SERVE_CACHE_MAX_BYTES" in printed
    (project / "registry/acme--gone.yaml").write_text(MODEL.replace("acme/model", "acme/gone"))
    code, printed = run(project, capsys, "lock", "acme--gone")
    assert code == 1 and "acme--gone: http://127.0.0.1" in printed and "there is no such repository" in printed


def test_a_check_tells_of_all_that_is_wrong(hub: HubStub, project: Path, capsys) -> None:
    assert run(project, capsys, "lock")[0] == 0
    lock = project / "registry/locks/acme--model.yaml"
    (project / "registry/locks/acme--gone.yaml").write_text(lock.read_text())
    code, printed = run(project, capsys, "lock", "--check")
    assert (code, printed) == (
        0, "  registry/locks/acme--gone.yaml: there is no model `acme--gone`\n1 model of 1 locked\n"
    )  # fmt: skip
    (project / "registry/acme--other.yaml").write_text("model_config: {model_id: acme/other}\n")
    code, printed = run(project, capsys, "lock", "--check")
    assert code == 1 and "registry/acme--other.yaml" in printed and "initializ" in printed


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("lock", "--check", "acme--model"), "`lock --check` looks at all models"),
        (("lock", "--check", "--update", "acme--model"), "`lock --check` looks at all models"),
        (("weights", "ls", "acme--model"), "`weights ls` does not take MODEL"),
        (("weights", "gc", "acme--model"), "`weights gc` does not take MODEL"),
        (("weights", "pull", "acme--model", "--to", "x"), "`weights pull` does not take --to"),
        (("weights", "ls", "--keep-bytes", "0"), "`weights ls` does not take --keep-bytes"),
    ],
)
def test_what_would_change_nothing_is_refused(words: tuple[str, ...], problem: str, project: Path, capsys) -> None:
    code, printed = run(project, capsys, *words)
    assert code == 64 and printed.startswith(f"llm-serve: {problem}")


@pytest.mark.parametrize("place", ["/proc/nope", "file"])
def test_a_cache_that_cannot_be(
    place: str, hub: HubStub, project: Path, capsys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LLM_SERVE_CACHE", str(tmp_path / place))
    for words in (("pull", "acme--model"), ("gc", "--keep-bytes", "0")):
        code, printed = run(project, capsys, "weights", *words)
        assert code == 1 and place in printed and "LLM_SERVE_CACHE names another" in printed
    code, printed = run(project, capsys, "weights", "ls")
    assert (code, "is no folder" in printed) == ((1, True) if place == "file" else (0, False))


def test_verify_reads_again_what_is_there_and_fetches_nothing(hub: HubStub, project: Path, capsys, cache: Path) -> None:
    (project / "registry/acme--away.yaml").write_text(MODEL.replace("acme/model", "acme/away"))
    code, printed = run(project, capsys, "weights", "verify", "acme--away")
    assert code == 1 and "acme/away is not in the model cache" in printed and "pull it again" in printed
    assert run(project, capsys, "weights", "pull", "acme--model")[0] == 0
    other = cache / ".llm-serve" / "verified" / "models--acme--other.json"
    other.write_text("{}")
    before = len(hub.seen)
    assert run(project, capsys, "weights", "verify", "acme--model")[0] == 0
    blob = (cache / "models--acme--model/snapshots" / hub.commit / "model.safetensors").resolve()
    looks, data = blob.stat(), blob.read_bytes()
    blob.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    os.utime(blob, ns=(looks.st_atime_ns, looks.st_mtime_ns))
    code, printed = run(project, capsys, "weights", "verify", "acme--model")
    assert code == 1 and "model.safetensors is damaged; pull it again" in printed
    assert len(hub.seen) == before and other.exists()
    assert run(project, capsys, "weights", "pull", "acme--model")[0] == 0
    assert run(project, capsys, "weights", "verify", "acme--model")[0] == 0


@pytest.mark.parametrize("target", ["s3:/x", "http://x/y", "gs://x/y"])
def test_a_mirror_is_an_address_or_a_folder(
    target: str, hub: HubStub, project: Path, capsys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, printed = run(project, capsys, "weights", "push", "acme--model", "--to", target)
    assert code == 1 and f"{target}: is neither an address such as s3://bucket/prefix/ nor a folder" in printed
    assert not list(tmp_path.glob("*:"))


def test_a_mirror_that_is_half_filled_is_none(
    hub: HubStub, project: Path, capsys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "mirror"
    push = ("weights", "push", "acme--model", "--to", str(target))
    assert run(project, capsys, *push)[0] == 0

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("shutil.copyfile", fail)
        code, printed = run(project, capsys, *push)
    assert code == 1 and "No space left on device" in printed
    mirror = f"initialization: {{s3_mirror_config: {{bucket_uri: '{target}'}}, "
    (project / "registry/acme--mirrored.yaml").write_text(MODEL.replace("initialization: {", mirror))
    code, printed = run(project, capsys, "weights", "pull", "acme--mirrored")
    assert code == 1 and "/hash: says 'incomplete', which is no commit; is it being filled?" in printed
    assert run(project, capsys, *push)[0] == 0
    assert run(project, capsys, "weights", "pull", "acme--mirrored")[0] == 0


def test_a_bucket_that_is_half_filled_is_no_mirror(hub: HubStub, project: Path, s3: FaultProxy, capsys) -> None:
    mirror = f"initialization: {{s3_mirror_config: {{bucket_uri: 's3://models/m/', endpoint_url: '{s3.url}'}}, "
    (project / "registry/acme--model.yaml").write_text(MODEL.replace("initialization: {", mirror))
    order: list[str] = []
    s3.choose = lambda method, path: order.append(path) if method == "PUT" else None
    assert run(project, capsys, "weights", "push", "acme--model")[0] == 0
    assert order[0] == order[-1] == "/models/m/hash"


@pytest.mark.parametrize(
    ("kwargs", "name"), [("trust_remote_code: true", "modeling_x.py"), ("use_safetensors: false", "x.bin")]
)
@pytest.mark.parametrize("here", [[], ["--here"]])
def test_a_lock_has_what_it_lets_a_model_trust(
    hub: HubStub, project: Path, capsys, kwargs: str, name: str, here: list[str]
) -> None:
    hub.files[name] = b"x = 1"
    trusting = MODEL.replace("type: SingleDevice", f"type: SingleDevice, from_pretrained_kwargs: {{{kwargs}}}")
    (project / "registry/acme--model.yaml").write_text(trusting)
    code, printed = run(project, capsys, "lock", *here)
    assert code == 0, printed
    assert f"path: {name}" in (project / "registry/locks/acme--model.yaml").read_text()
    code, printed = run(project, capsys, "weights", "pull", "acme--model")
    assert code == 0, printed
