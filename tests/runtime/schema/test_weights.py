"""The flags of `aws s3 sync`, and what a lock may hold."""

import pytest
from pydantic import TypeAdapter, ValidationError

from runtime.schema.lock import WeightsLock
from runtime.schema.weights import RepositoryName, S3MirrorConfig, SyncOptions


def options(*words: str, **more) -> SyncOptions:
    return S3MirrorConfig(bucket_uri="s3://b/p/", s3_sync_args=list(words), **more).options


def test_flags_of_aws_s3_sync() -> None:
    assert options() == SyncOptions()
    assert options("--no-sign-request", "--quiet").signed is False
    said = options(
        "--region", "eu-west-1", "--endpoint-url=http://x:9000", "--profile", "ml", "--request-payer=requester"
    )
    assert said == SyncOptions(True, "eu-west-1", "http://x:9000", "ml", True)
    assert options("--endpoint-url", "http://x", endpoint_url="http://y").endpoint_url == "http://y"


def test_the_last_filter_that_matches_wins() -> None:
    said = options("--exclude", "*", "--include", "*.json", "--exclude=a*")
    assert [name for name in ("b.json", "a.json", "b.bin", "sub/c.json") if said.wants(name)] == [
        "b.json",
        "sub/c.json",
    ]


@pytest.mark.parametrize("words", [["--delete"], ["--no-verify-ssl"], ["x"], ["--region"], ["--region", "--quiet"]])
def test_others_are_refused(words: list[str]) -> None:
    with pytest.raises(ValidationError, match=r"not a flag that is understood|needs a value"):
        options(*words)


@pytest.mark.parametrize("uri", ["ext::sh -c touch% x", "--upload-pack=x", "file://host/x", "http://plain/x"])
def test_git_addresses(uri: str) -> None:
    with pytest.raises(ValidationError):
        S3MirrorConfig(git_uri=uri)
    S3MirrorConfig(git_uri="https://huggingface.co/acme/x")
    S3MirrorConfig(git_uri="git@host:acme/x.git")


@pytest.mark.parametrize("path", ["../x", "/x", "a/../x", ".x", "a\\..\\x", "x" * 256, "a//b", ""])
def test_names_in_a_lock_lead_nowhere_else(path: str) -> None:
    entry = {"path": path, "size": 1, "sha256": "a" * 64}
    with pytest.raises(ValidationError):
        WeightsLock.model_validate({"commit": "c" * 40, "files": [entry]})


def test_twins_that_differ_in_case_alone() -> None:
    entries = [{"path": path, "size": 1, "sha256": "a" * 64} for path in ("Config.json", "config.json")]
    with pytest.raises(ValidationError, match=r"`Config\.json` and `config\.json` are one name"):
        WeightsLock.model_validate({"commit": "c" * 40, "files": entries})


@pytest.mark.parametrize(
    "name", ["acme/a--b", "a--b/c", "acme/a..b", "acme/a-", "acme/a.", "acme./a", "acme/a.git", "a/b/c", "-a", "/a", ""]
)
def test_names_that_no_repository_has(name: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(RepositoryName).validate_python(name)


@pytest.mark.parametrize("name", ["acme/a-b_c.d", "gpt2", "a/b.gitx", "Org-1/Model-7b-v0.1", "acme/a__b_"])
def test_names_that_repositories_have(name: str) -> None:
    assert TypeAdapter(RepositoryName).validate_python(name) == name
