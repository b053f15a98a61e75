"""Hostile models: each is refused by name and reason, before a library opens a file of it."""

import json
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.errors import WeightsError
from runtime.weights.gguf import read_gguf
from runtime.weights.inspection import Trust, inspect, reader
from runtime.weights.safetensors import HeaderError, read_safetensors
from tests.runtime.weights.models import gguf, safetensors, write_model

HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "pickle weights": (lambda at: (at / "pytorch_model.bin").write_bytes(b"\x80\x04"), r"pytorch_model\.bin: .*pickle"),
    "pickle beside": (lambda at: (at / "training_args.PT").write_bytes(b"x"), r"training_args\.PT: .*pickle"),
    "code": (lambda at: (at / "modeling_x.py").write_text("import os"), r"modeling_x\.py: is code"),
    "auto_map": (
        lambda at: config(at, auto_map={"AutoModelForCausalLM": "modeling_x.X"}),
        r"config\.json: `auto_map` names code",
    ),
    "code of another repository": (
        lambda at: config(at, architectures=["evil/repo--modeling_x.X"]),
        r"config\.json: `architectures` names code",
    ),
    "attention's inner key": (
        lambda at: config(at, text_config={"_attn_implementation_internal": "evil/kernels"}),
        r"config\.json: `_attn_implementation_internal` names code",
    ),
    "attention from the hub": (
        lambda at: config(at, _attn_implementation="evil/kernels"),
        r"config\.json: `_attn_implementation` names code",
    ),
    "tokenizer's auto_map": (
        lambda at: (at / "tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": ["x.X", null]}}'),
        r"tokenizer_config\.json: `auto_map` names code",
    ),
    "module of another repository": (
        lambda at: (at / "modules.json").write_text('[{"type": "evil/repo--mod.Class", "path": ""}]'),
        r"modules\.json: `type` names code, 'evil/repo--mod\.Class'",
    ),
    "module from anywhere": (
        lambda at: (at / "modules.json").write_text('[{"type": "antigravity.X", "path": ""}]'),
        r"modules\.json: `type` names code, 'antigravity\.X'",
    ),
    "module behind much else": (
        lambda at: (at / "modules.json").write_text('[{"type": "antigravity.X", "path": ""}]' + " " * (2 << 20)),
        r"modules\.json: `type` names code",
    ),
    "route to a module from anywhere": (
        lambda at: (at / "router_config.json").write_text('{"types": {"query": "antigravity.X"}}'),
        r"router_config\.json: `types` names code, 'antigravity\.X'",
    ),
    "tokenizer's class from anywhere": (
        lambda at: config(at, tokenizer_class="antigravity.X"),
        r"config\.json: `tokenizer_class` names code",
    ),
    "auto_map in a file of another name": (
        lambda at: (at / "preprocessor.json").write_text('{"auto_map": {"AutoProcessor": "x.X"}}'),
        r"preprocessor\.json: `auto_map` names code",
    ),
    "template that reaches out": (
        lambda at: (at / "chat_template.jinja").write_text("{{ ''.__class__.__mro__ }}"),
        r"chat_template\.jinja: its chat template reaches for Python's own `__class__`",
    ),
    "template in the tokenizer's config": (
        lambda at: (at / "tokenizer_config.json").write_text('{"chat_template": "{{ x.__globals__ }}"}'),
        r"tokenizer_config\.json: .*__globals__",
    ),
    "template in a GGUF": (
        lambda at: (at / "m.gguf").write_bytes(gguf({"tokenizer.chat_template": "{{ ().__class__ }}"})),
        r"m\.gguf: tokenizer\.chat_template: .*__class__",
    ),
    "index that leads out": (
        lambda at: (at / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../../etc/passwd"}}'),
        r"'\.\./\.\./etc/passwd' is no name",
    ),
    "config that is no JSON": (lambda at: (at / "config.json").write_text("{" * 100_000), r"config\.json: is not JSON"),
    "safetensors: header beyond the file": (
        lambda at: (at / "model.safetensors").write_bytes(struct.pack("<Q", 1 << 40) + b"{}"),
        r"model\.safetensors: it says that its header has 1099511627776 bytes",
    ),
    "safetensors: tensor beyond the file": (
        lambda at: (at / "model.safetensors").write_bytes(safetensors({"a": ("F32", [1000], 0, 4000)}, b"x" * 40)),
        r"model\.safetensors: its tensors end at",
    ),
    "safetensors: tensors that overlap": (
        lambda at: (at / "model.safetensors").write_bytes(
            safetensors({"a": ("U8", [8], 0, 8), "b": ("U8", [8], 4, 12)}, b"x" * 12)
        ),
        r"model\.safetensors: tensor `b` begins at 4",
    ),
    "safetensors: shape that overflows": (
        lambda at: (at / "model.safetensors").write_bytes(safetensors({"a": ("F32", [1 << 62, 4], 0, 0)}, b"")),
        r"model\.safetensors: tensor `a` has 0 bytes",
    ),
    "GGUF: no GGUF": (lambda at: (at / "m.gguf").write_bytes(b"GGML" + b"x" * 40), r"m\.gguf: it does not begin"),
    "GGUF: version": (
        lambda at: (at / "m.gguf").write_bytes(b"GGUF" + struct.pack("<I", 9) + b"\0" * 16),
        r"m\.gguf: it has version 9",
    ),
    "GGUF: tensor beyond the file": (
        lambda at: (at / "m.gguf").write_bytes(gguf(tensors={"a": ([1 << 40], 0, 0)})),
        r"m\.gguf: tensor `a` ends at",
    ),
    "GGUF: dimensions that overflow": (
        lambda at: (at / "m.gguf").write_bytes(gguf(tensors={"a": ([1 << 62, 1 << 62], 0, 0)})),
        r"m\.gguf: tensor `a` ends at",
    ),
    "GGUF: counts that lie": (
        lambda at: (at / "m.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 1)),
        r"m\.gguf: it says that it has 1152921504606846976 tensors",
    ),
    "GGUF: list beyond the file": (
        lambda at: (at / "m.gguf").write_bytes(
            b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1) + b"a" + struct.pack("<IIQ", 9, 10, 40)
        ),
        r"m\.gguf: its header wants to go on",
    ),
    "link out of the cache": (
        lambda at: (at / "x.json").symlink_to("/etc/passwd"),
        r"x\.json: is a link that leads out",
    ),
    "link to nothing": (lambda at: (at / "x.json").symlink_to(at / "nowhere"), r"x\.json: is a link to nothing"),
    "names that differ in case": (lambda at: (at / "Config.json").write_text("{}"), r"differs from"),
    "name with a control character": (lambda at: (at / "a\nb").write_text(""), r"no name for a file"),
}


def config(folder: Path, **more) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", **more}))


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_models_are_refused(name: str, tmp_path: Path) -> None:
    spoil, message = HOSTILE[name]
    write_model(tmp_path)
    inspect(tmp_path, Trust(), tmp_path)
    spoil(tmp_path)
    with pytest.raises(WeightsError, match=message):
        inspect(tmp_path, Trust(), tmp_path)


def test_trust_lets_code_through_and_nothing_else(tmp_path: Path) -> None:
    write_model(tmp_path)
    config(tmp_path, auto_map={"AutoModelForCausalLM": "modeling_x.X"})
    (tmp_path / "modeling_x.py").write_text("")
    inspect(tmp_path, Trust(code=True))
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(WeightsError, match="pickle"):
        inspect(tmp_path, Trust(code=True))
    inspect(tmp_path, Trust(code=True, pickles=True))


@pytest.mark.parametrize("there", ["evil/repo--modeling_x.X", "/tmp/evil--modeling_x.X"])
def test_trust_is_in_one_repository(tmp_path: Path, there: str) -> None:
    write_model(tmp_path)
    for named in ({"AutoModel": there}, {"AutoTokenizer": [None, there]}):
        config(tmp_path, auto_map=named)
        with pytest.raises(WeightsError, match=r"config\.json: `auto_map` names code of another repository"):
            inspect(tmp_path, Trust(code=True))
    config(tmp_path)
    (tmp_path / "modules.json").write_text(json.dumps([{"type": there, "path": ""}]))
    with pytest.raises(WeightsError, match=r"modules\.json: .*another repository, which nothing pins"):
        inspect(tmp_path, Trust(code=True))


def test_a_pipe_is_no_file(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(WeightsError, match="not a regular file"):
        inspect(tmp_path, Trust())


def test_ordinary_words_are_no_code(tmp_path: Path) -> None:
    write_model(tmp_path)
    config(tmp_path, _name_or_path="acme/base", _attn_implementation="sdpa", auto_map=None, note="a--b", torch="1.0")
    (tmp_path / "modules.json").write_text('[{"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}]')
    (tmp_path / "vocab.json").write_text('{"type": 1, "auto": 2, "a.b--c": 3}')
    (tmp_path / "README.md").write_text("---\n")
    (tmp_path / ".gitattributes").write_text("*.bin filter=lfs\n")
    inspect(tmp_path, Trust())


@pytest.mark.parametrize("cut", range(0, 200, 7))
def test_a_header_that_was_cut_is_an_error_and_no_crash(cut: int, tmp_path: Path) -> None:
    whole = gguf({"general.architecture": "llama", "a.b": 7}, {"t": ([32], 0, 0)}, data=b"x" * 128)
    (tmp_path / "m.gguf").write_bytes(whole[: -1 - cut])
    with pytest.raises(HeaderError):
        read_gguf(reader(tmp_path / "m.gguf"), len(whole) - 1 - cut)
    whole = safetensors({"a": ("F16", [64], 0, 128)}, b"x" * 128)
    (tmp_path / "m.safetensors").write_bytes(whole[: -1 - cut])
    with pytest.raises(HeaderError):
        read_safetensors(reader(tmp_path / "m.safetensors"), max(0, len(whole) - 1 - cut))
