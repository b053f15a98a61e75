"""What cannot be had is named by its field in the registry file."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from runtime.errors import ConfigError, WeightsError
from runtime.phases import Phases
from runtime.schema.lock import WeightsLock
from runtime.schema.weights import S3MirrorConfig
from runtime.weights.cache import store
from runtime.weights.remote import Pace
from runtime.weights.request import Request
from runtime.weights.sources import model_file, model_folder, obtain
from tests.runtime.support import arguments_for
from tests.runtime.weights.models import gguf, write_model
from tests.runtime.weights.test_s3 import COMMIT, content, lock_of

FIELD = "model_config.initialization.initializer.model_filename"


def folder_of(**initialization) -> Path:
    return model_folder(arguments_for({"type": "llamaCpp"}, initialization=initialization), Phases())


def choose(folder: Path, filename: str | None) -> Path:
    return model_file(folder, filename, ".gguf", FIELD, "registry/acme--model.yaml")


def test_the_cache_answers_for_model_id_or_hf_model_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.gguf").write_bytes(gguf())
    stored = store("acme/other", {"x.gguf": tmp_path / "x.gguf"})
    assert folder_of(hf_model_id="acme/other", revision="main") == stored
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ConfigError, match=r"registry/acme--model.yaml: model_config.model_id: cannot get acme/model"):
        folder_of()
    with pytest.raises(ConfigError, match=r"initialization.hf_model_id: cannot get acme/none .*HF_HUB_OFFLINE is set"):
        folder_of(hf_model_id="acme/none")


def test_a_local_mirror(tmp_path: Path) -> None:
    assert folder_of(s3_mirror_config={"bucket_uri": str(tmp_path)}) == tmp_path
    assert folder_of(s3_mirror_config={"bucket_uri": f"file://{tmp_path}"}) == tmp_path
    with pytest.raises(ConfigError, match=r"s3_mirror_config\.bucket_uri: there is no folder"):
        folder_of(s3_mirror_config={"bucket_uri": str(tmp_path / "none")})
    with pytest.raises(ConfigError, match=r"s3_mirror_config\.bucket_uri: .*ftp://bucket/x: is no address such as s3:"):
        folder_of(s3_mirror_config={"bucket_uri": "ftp://bucket/x"}, revision="c" * 40)


def test_the_file_by_name_or_the_only_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=rf"{FIELD}: .* holds no .gguf file"):
        choose(tmp_path, None)
    (tmp_path / "a.gguf").touch()
    assert choose(tmp_path, None) == choose(tmp_path, "a.gguf") == tmp_path / "a.gguf"
    (tmp_path / "b.gguf").touch()
    with pytest.raises(ConfigError, match=r"holds a.gguf, b.gguf"):
        choose(tmp_path, None)
    with pytest.raises(ConfigError, match=r"there is no file 'c.gguf' in .*; it holds a.gguf, b.gguf"):
        choose(tmp_path, "c.gguf")


@pytest.mark.parametrize("name", ["../x.gguf", "/etc/passwd", "a/../../x.gguf"])
def test_names_cannot_lead_out(tmp_path: Path, name: str) -> None:
    (tmp_path.parent / "x.gguf").touch()
    with pytest.raises(ConfigError, match="leads out"):
        choose(tmp_path, name)


def in_place(folder: Path, lock: WeightsLock | None, engine: str = "SingleDevice", **initialization) -> Path:
    mirror = {"s3_mirror_config": {"bucket_uri": str(folder)}, **initialization}
    more = {"lock": lock.model_dump()} if lock else {}
    return model_folder(arguments_for({"type": engine}, initialization=mirror, **more), Phases())


def test_a_local_folder_is_held_against_the_lock(tmp_path: Path) -> None:
    folder = tmp_path / "mirror"
    files = write_model(folder)
    lock = lock_of(files)
    (folder / "hash").write_text(f"{COMMIT}\n")
    (folder / "README.md").write_text("about it")
    assert in_place(folder, lock) == folder
    (folder / "extra.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"extra\.json: is not in the lock, and an engine might load it"):
        in_place(folder, lock)
    (folder / "extra.json").unlink()
    (folder / "config.json").write_bytes(files["config.json"][:-1] + b" ")
    with pytest.raises(ConfigError, match=r"bucket_uri: .*config\.json: bad checksum: it is not what the lock says"):
        in_place(folder, lock)
    (folder / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"does not hold config\.json, which is locked"):
        in_place(folder, lock)
    (folder / "hash").write_text("d" * 40)
    with pytest.raises(ConfigError, match=f"holds commit {'d' * 40}, and {COMMIT} is asked for"):
        in_place(folder, lock)


def test_a_locked_gguf_may_lie_beside_the_same_model_in_another_format(tmp_path: Path) -> None:
    files = write_model(tmp_path)
    (tmp_path / "model.gguf").write_bytes(gguf())
    (tmp_path / "hash").write_text(f"{COMMIT}\n")
    described = {name: data for name, data in files.items() if not name.endswith(".safetensors")}
    lock = lock_of({**described, "model.gguf": gguf()})
    assert in_place(tmp_path, lock, "llamaCpp") == tmp_path
    adapter = (tmp_path / "model.safetensors").replace(tmp_path / "adapter_model.safetensors")
    with pytest.raises(ConfigError, match=r"adapter_model\.safetensors: is not in the lock"):
        in_place(tmp_path, lock, "llamaCpp")
    adapter.replace(tmp_path / "model.safetensors")
    with pytest.raises(ConfigError, match=r"model\.safetensors: is not in the lock, and an engine might load it"):
        in_place(tmp_path, lock)


def test_a_local_folder_is_held_against_the_commit_that_is_asked_for(tmp_path: Path) -> None:
    write_model(tmp_path)
    with pytest.raises(ConfigError, match=f"has no `hash`, and commit {'d' * 40} is asked for: lock the model"):
        in_place(tmp_path, None, revision="d" * 40)
    (tmp_path / "hash").write_text(f"{COMMIT}\n")
    with pytest.raises(ConfigError, match=f"holds commit {COMMIT}, and {'d' * 40} is asked for"):
        in_place(tmp_path, None, revision="d" * 40)
    assert in_place(tmp_path, None, revision=COMMIT) == tmp_path


def test_code_needs_trust_and_a_pin(tmp_path: Path) -> None:
    files = write_model(tmp_path / "mirror")
    (tmp_path / "mirror" / "modeling_x.py").write_text("")
    (tmp_path / "mirror" / "hash").write_text(COMMIT)
    lock = lock_of({**files, "modeling_x.py": b""})
    mirror = {"s3_mirror_config": {"bucket_uri": str(tmp_path / "mirror")}}
    trusting = {"type": "SingleDevice", "from_pretrained_kwargs": {"trust_remote_code": True}}

    def folder(initializer: dict, **more) -> Path:
        return model_folder(
            arguments_for(initializer, initialization={**mirror, **more.pop("more", {})}, **more), Phases()
        )

    for initializer, more in [
        ({"type": "SingleDevice"}, {"lock": lock.model_dump()}),
        (trusting, {}),
        (trusting, {"more": {"revision": "main"}}),
        (trusting, {"more": {"revision": COMMIT}}),  # says the mirror
    ]:
        with pytest.raises(ConfigError, match=r"modeling_x\.py: is code; it is allowed by `trust_remote_code: true`"):
            folder(initializer, **more)
    assert folder(trusting, lock=lock.model_dump()) == tmp_path / "mirror"


def git(folder: Path, *words: str) -> str:
    names = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    done = subprocess.run(["git", *names, *words], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_git_repository(tmp_path: Path) -> None:
    origin = tmp_path / "origin"
    files = write_model(origin)
    git(origin, "init", "--quiet", "--initial-branch=main")
    git(origin, "add", ".")
    git(origin, "commit", "--quiet", "-m", "weights")
    commit = git(origin, "rev-parse", "HEAD")
    hook = origin / ".git" / "hooks" / "post-checkout"
    hook.write_text("#!/bin/sh\ntouch /tmp/hooked\n")
    mirror = S3MirrorConfig(git_uri=f"file://{origin}")

    def fetch(lock: WeightsLock | None, revision: str = "main") -> Path:
        return obtain(Request("acme/model", revision, lock=lock, mirror=mirror), Pace(sleep=lambda _: None), Phases())

    found = fetch(lock_of(files, commit))
    assert (found.parent.name, content(found)) == (commit, files)
    assert content(fetch(None)) == files
    with pytest.raises(WeightsError, match=r"file://.*: git fetch failed: .*v9"):
        fetch(None, "v9")
    (origin / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 1\n")
    git(origin, "commit", "--quiet", "-a", "-m", "aside")
    if not shutil.which("git-lfs"):
        with pytest.raises(WeightsError, match="that needs git-lfs, and this node has none"):
            fetch(None, git(origin, "rev-parse", "HEAD"))


def test_a_restart_reads_no_content_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = write_model(tmp_path / "source")
    past = time.time() - 60
    folder = store("acme/model", {name: tmp_path / "source" / name for name in files})
    for name in files:
        os.utime((folder / name).resolve(), (past, past))
    request = Request("acme/model", lock=lock_of(files, folder.name))
    view = obtain(request, Pace(), Phases())
    assert content(view) == files
    monkeypatch.setattr("runtime.weights.digests.digest_of", lambda *_: pytest.fail("a file was read again"))
    assert obtain(request, Pace(), Phases()) == view


def test_the_phases_of_a_start_are_measured(tmp_path: Path) -> None:
    ticks = iter(range(100))
    phases = Phases(clock=lambda: float(next(ticks)))
    write_model(tmp_path / "m")
    mirror = {"s3_mirror_config": {"bucket_uri": str(tmp_path / "m")}}
    model_folder(arguments_for({"type": "SingleDevice"}, initialization=mirror), phases)
    assert phases.seconds == {"verify": 2.0}


def test_a_cache_that_can_only_be_read(tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What is there is used, and said to be looked through each time; what is not there cannot be fetched."""
    write_model(tmp_path / "source")
    folder = store("acme/model", {path.name: path for path in (tmp_path / "source").iterdir()})
    for path in (tmp_path / "source").iterdir():
        os.utime((folder / path.name).resolve(), (1e9, 1e9))
    (cache / ".llm-serve").write_text("in the way")
    assert model_folder(arguments_for({"type": "SingleDevice"}), Phases()) == folder
    assert "every start reads all files again" in caplog.text
    with pytest.raises(ConfigError, match=r"hf_model_id: .*/cache/\.llm-serve"):
        model_folder(arguments_for({"type": "SingleDevice"}, initialization={"hf_model_id": "acme/x"}), Phases())
