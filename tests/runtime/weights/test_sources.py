"""What cannot be had is named by its field in the registry file."""

from pathlib import Path

import pytest

from runtime.errors import ConfigError
from runtime.weights.cache import store
from runtime.weights.sources import model_file, model_folder
from tests.runtime.support import arguments_for

FIELD = "model_config.initialization.initializer.model_filename"


def folder_of(**initialization) -> Path:
    return model_folder(arguments_for({"type": "llamaCpp"}, initialization=initialization))


def choose(folder: Path, filename: str | None) -> Path:
    return model_file(folder, filename, ".gguf", FIELD, "registry/acme--model.yaml")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_SERVE_CACHE", str(tmp_path / "cache"))


def test_the_cache_answers_for_model_id_or_hf_model_id(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x")
    assert folder_of(hf_model_id="acme/other", revision="main") if store("acme/other", {"x": tmp_path / "x"}) else False
    with pytest.raises(ConfigError, match=r"registry/acme--model.yaml: model_config.model_id: acme/model is not in"):
        folder_of()
    with pytest.raises(
        ConfigError, match=r"model_config.initialization.hf_model_id: acme/none .*hf download acme/none"
    ):
        folder_of(hf_model_id="acme/none")


def test_a_local_mirror(tmp_path: Path) -> None:
    assert folder_of(s3_mirror_config={"bucket_uri": str(tmp_path)}) == tmp_path
    assert folder_of(s3_mirror_config={"bucket_uri": f"file://{tmp_path}"}) == tmp_path
    with pytest.raises(ConfigError, match=r"s3_mirror_config\.bucket_uri: there is no folder"):
        folder_of(s3_mirror_config={"bucket_uri": str(tmp_path / "none")})
    with pytest.raises(ConfigError, match=r"s3_mirror_config\.bucket_uri: s3://bucket/x is remote"):
        folder_of(s3_mirror_config={"bucket_uri": "s3://bucket/x"})


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
