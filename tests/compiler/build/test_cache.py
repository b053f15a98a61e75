"""A shared cache saves builds, and nothing in it is believed."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

from compiler.build.cache import SECRET
from compiler.cli import main
from tests.compiler.test_make import edit, generated

REPO = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The address of an S3 server on loopback."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(params=["folder", "s3"])
def address(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty cache of each kind."""
    monkeypatch.setenv(SECRET, "correct horse battery staple")
    if request.param == "folder":
        return str(tmp_path / "cache")
    monkeypatch.setenv("AWS_ENDPOINT_URL", request.getfixturevalue("s3"))
    for name, value in (("ACCESS_KEY_ID", "a"), ("SECRET_ACCESS_KEY", "b"), ("DEFAULT_REGION", "us-east-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    bucket = tmp_path.name.replace("_", "-").lower()
    boto3.client("s3").create_bucket(Bucket=bucket)
    return f"s3://{bucket}/llm-serve/builds"


def checkout(folder: Path) -> Path:
    for name in ("base", "registry"):
        shutil.copytree(REPO / name, folder / name)
    return folder


def run(root: Path, address: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["compile", "--cache", address, "--root", str(root)]) == 0
    printed = capsys.readouterr()
    return printed.out.splitlines()[-1] + printed.err


def objects(address: str) -> dict[str, bytes]:
    if not address.startswith("s3://"):
        folder = Path(address)
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    bucket, _, prefix = address.removeprefix("s3://").partition("/")
    client = boto3.client("s3")
    listed = client.list_objects_v2(Bucket=bucket)["Contents"]
    names = [each["Key"] for each in listed]
    return {
        name.removeprefix(f"{prefix}/"): client.get_object(Bucket=bucket, Key=name)["Body"].read() for name in names
    }


def put(address: str, name: str, data: bytes) -> None:
    if not address.startswith("s3://"):
        (Path(address) / name).write_bytes(data)
        return
    bucket, _, prefix = address.removeprefix("s3://").partition("/")
    boto3.client("s3").put_object(Bucket=bucket, Key=f"{prefix}/{name}", Body=data)


def test_a_fresh_checkout_builds_nothing(address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = checkout(tmp_path / "first"), checkout(tmp_path / "second")
    assert "22 built, 0 reused" in run(first, address, capsys)
    assert "nothing to build; wrote 25 files" in run(second, address, capsys)
    assert generated(first) == generated(second) == generated(REPO)


def test_a_comment_that_builds_nothing_is_in_the_cache_too(address: str, tmp_path: Path, capsys) -> None:
    first, second = checkout(tmp_path / "first"), checkout(tmp_path / "second")
    run(first, address, capsys)
    for root in (first, second):
        edit(root, "base/defaults.yaml", "max_new_tokens: 512", "max_new_tokens: 512  # enough")
    assert "nothing to build" in run(first, address, capsys)
    assert "nothing to build; wrote 25 files" in run(second, address, capsys)


def test_another_branch_builds_only_what_is_other(
    address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = checkout(tmp_path / "first"), checkout(tmp_path / "second")
    run(first, address, capsys)
    edit(second, "registry/mosaicml--mpt-7b-chat.yaml", "model_config:", "model_config:\n  max_input_words: 800")
    assert "1 built, 21 reused" in run(second, address, capsys)


SPOILT = {
    "truncated": lambda data: data[:-20],
    "empty": lambda _: b"",
    "another one's": lambda data: data[:32] + bytes(reversed(data[32:])),
    "a flipped bit": lambda data: data[:50] + bytes([data[50] ^ 1]) + data[51:],
    "unsigned": lambda data: bytes(32) + data[32:],
}


@pytest.mark.parametrize("how", SPOILT)
def test_a_spoilt_entry_is_seen_and_built_again(
    how: str, address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(checkout(tmp_path / "first"), address, capsys)
    for name, data in objects(address).items():
        put(address, name, SPOILT[how](data))
    said = run(second := checkout(tmp_path / "second"), address, capsys)
    assert "22 built, 0 reused" in said
    assert "the cache is not used: packs/" in said and SECRET in said
    assert generated(second) == generated(REPO)
    assert "nothing to build" in run(checkout(tmp_path / "third"), address, capsys), "and the cache is whole again"


def test_one_pack_cannot_stand_for_another(address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All signed, and all where they were not signed for."""
    first = checkout(tmp_path / "first")
    run(first, address, capsys)
    before = {name for name in objects(address) if name.startswith("packs/")}
    edit(first, "base/defaults.yaml", "max_new_tokens: 512", "max_new_tokens: 513")
    run(first, address, capsys)
    packs = {name: data for name, data in objects(address).items() if name.startswith("packs/")}
    (new,) = packs.keys() - before
    for name in before:
        put(address, name, packs[new])
    assert "22 built" in run(second := checkout(tmp_path / "second"), address, capsys)
    assert generated(second) == generated(REPO)


def test_a_stranger_without_the_secret_is_not_believed(
    address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as stranger:
        stranger.setenv(SECRET, "another secret of the same length")
        run(checkout(tmp_path / "first"), address, capsys)
    said = run(checkout(tmp_path / "second"), address, capsys)
    assert "22 built" in said and "signed with another" in said


def test_a_cache_that_is_away_costs_a_word(tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SECRET, "correct horse battery staple")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "DEFAULT_REGION"):
        monkeypatch.setenv(f"AWS_{name}", "us-east-1")
    said = run(checkout(tmp_path / "first"), "s3://bucket", capsys)
    assert "22 built" in said
    assert "the cache is not used: cannot read s3://bucket/packs/" in said


@pytest.mark.parametrize("secret", [None, "", "short"])
def test_without_a_secret_there_is_no_cache(secret: str | None, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.delenv(SECRET, raising=False)
    if secret is not None:
        monkeypatch.setenv(SECRET, secret)
    root = checkout(tmp_path / "first")
    assert main(["compile", "--cache", str(tmp_path / "cache"), "--root", str(root)]) == 1
    assert (
        "error[E504]: --cache needs a secret of 16 characters or more in LLM_SERVE_CACHE_KEY" in capsys.readouterr().err
    )
    assert not (root / "generated").exists()
