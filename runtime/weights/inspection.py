"""What a model's folder may hold, looked at before any library opens a file of it.

A model is somebody else's data. It runs no code unless its registry file says so and pins what it trusts, names no
file elsewhere, and its headers say the truth about its sizes: native code believes them.
"""

import json
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.errors import WeightsError
from runtime.weights.gguf import TEMPLATE, read_gguf
from runtime.weights.safetensors import HeaderError, read_safetensors

PICKLES = frozenset({".bin", ".ckpt", ".joblib", ".npy", ".npz", ".pickle", ".pkl", ".pt", ".pth", ".dill"})
"""Suffixes of files that a loader unpickles, or may."""
CODE = frozenset({".dll", ".dylib", ".py", ".pyc", ".pyd", ".sh", ".so"})
"""Suffixes of files that a loader runs."""
SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+ -]*(/[A-Za-z0-9_][A-Za-z0-9_.+ -]*)*")

_CODE_KEYS = frozenset({"auto_map", "custom_pipelines", "_attn_implementation_internal", "kernel_config"})
_ATTENTION_KEYS = frozenset({"_attn_implementation", "attn_implementation", "_experts_implementation"})
"""Keys whose value may be a built-in's name, and names code on the hub if it has a `/` in it."""
_CLASS_KEYS = frozenset({"tokenizer_class", "types"})
"""Keys whose value is a class of the library, or any class at all where it has a `.` in it."""
_REFERENCE = re.compile(r"[\w.-]+(/[\w.-]+)?--[\w.-]+\.[A-Za-z_]\w*", re.ASCII)
"""A class in another repository, as transformers writes it."""
_MODULE = re.compile(r"sentence_transformers\.[\w.]+", re.ASCII)
"""A class that sentence-transformers brings along; it imports any other that a model's files name."""
_INTERNALS = re.compile(
    r"__(base|bases|builtins|class|closure|code|dict|func|getattribute|globals|import|init|loader|mro|reduce|reduce_ex"
    r"|self|subclasses)__"
)
"""What a template reaches for that wants out of its sandbox."""
_PIN = "a lock, or a pinned commit and no mirror"
_LONGEST_CONFIG = 64 << 20
_SMALL = 1 << 20
_MOST_FILES = 10_000


@dataclass(frozen=True, slots=True)
class Trust:
    """What the registry file allows. `code`: the repository's own code; `pickles`: weights that are pickles."""

    code: bool = False
    pickles: bool = False


def is_pickle(path: str) -> bool:
    """Whether a file is one that loaders unpickle, by its name."""
    return Path(path).suffix.lower() in PICKLES


def is_code(path: str) -> bool:
    """Whether a file is one that loaders run, by its name."""
    return Path(path).suffix.lower() in CODE


def check_name(path: str) -> None:
    """Raise WeightsError for a name that could lead out of the folder, or that file systems read in two ways."""
    if len(path) > 255 or not SAFE_NAME.fullmatch(path):
        raise WeightsError(f"{path[:80]!r} is no name for a file of a model: letters, digits, `_ . + -` and `/`")


def inspect(folder: Path, trust: Trust, home: Path | None = None) -> None:
    """Look at every file under `folder`. `home`: the folder that links may lead to; None: to none.

    Raises WeightsError that names the file and what is wrong with it.
    """
    twins: dict[str, str] = {}
    for path, file in _files(folder):
        other = twins.setdefault(path.casefold(), path)
        if other != path:
            raise WeightsError(f"{path}: differs from {other} in upper and lower case only")
        _check_place(path, file, home)
        _check_kind(path, trust)
        try:
            _check_content(path, file, trust)
        except HeaderError as error:
            raise WeightsError(f"{path}: {error}") from error
        except OSError as error:
            raise WeightsError(f"{path}: cannot be read: {error.strerror or error}") from error


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Every file with its path from the folder; hidden ones, which nobody loads, are passed over."""
    count = 0
    for file in sorted(folder.rglob("*")):
        path = file.relative_to(folder).as_posix()
        if any(part.startswith(".") for part in path.split("/")):
            continue
        if file.is_dir() and not file.is_symlink():
            continue
        count += 1
        if count > _MOST_FILES:
            raise WeightsError(f"{folder} has more than {_MOST_FILES} files")
        yield path, file


def _check_place(path: str, file: Path, home: Path | None) -> None:
    check_name(path)
    target = file.resolve()
    if file.is_symlink() and not (home and target.is_relative_to(home.resolve())):
        raise WeightsError(f"{path}: is a link that leads out of {'the model cache' if home else 'the folder'}")
    if not target.exists():
        raise WeightsError(f"{path}: is a link to nothing")
    if not stat.S_ISREG(target.stat().st_mode):
        raise WeightsError(f"{path}: is not a regular file")


def _check_kind(path: str, trust: Trust) -> None:
    if is_pickle(path) and not trust.pickles:
        raise WeightsError(
            f"{path}: may be a pickle, which runs code when it is loaded; use a revision with safetensors, or remove"
            " the file (`from_pretrained_kwargs: {use_safetensors: false}` with a lock allows it)"
        )
    if is_code(path) and not trust.code:
        raise WeightsError(f"{path}: is code; it is allowed by `trust_remote_code: true` together with {_PIN}")


def _check_content(path: str, file: Path, trust: Trust) -> None:
    check = _BY_SUFFIX.get(file.suffix.lower())
    if check:
        check(path, file, trust)


def _check_json(path: str, file: Path, trust: Trust) -> None:
    is_config = "config" in path or path.endswith((".index.json", "chat_template.json", "modules.json"))
    if not is_config and file.stat().st_size >= _SMALL:
        return  # vocabularies: large, and read by libraries that know nothing of code
    if file.stat().st_size > _LONGEST_CONFIG:
        raise WeightsError(f"{path}: is too large for a config")
    try:
        said = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path}: is not JSON: {error}") from error
    if path.endswith(".index.json"):
        _check_index(path, said)
    for key, value in _leaves(said):
        _check_value(path, key, value, trust)


def _check_value(path: str, key: str, value: Any, trust: Trust) -> None:
    text = value if isinstance(value, str) else ""
    if key == "types" and isinstance(value, Mapping):  # sentence-transformers' routes: name -> class
        for each in value.values():
            _check_value(path, key, each, trust)
    elif trust.code:
        _check_at_home(path, key, value)
    elif value is not None and _names_code(path, key, value):
        raise WeightsError(
            f"{path}: `{key}` names code, {str(value)[:80]!r}; it is allowed by `trust_remote_code: true` together with"
            f" {_PIN}"
        )
    if "template" in key:
        _check_template(path, text)


def _check_at_home(path: str, key: str, value: Any) -> None:
    """Code that is trusted is the repository's own: no lock and no commit pins another one's."""
    named = json.dumps(value) if key == "auto_map" or path.endswith("modules.json") else ""
    if "--" in named or _REFERENCE.fullmatch(value if isinstance(value, str) else ""):
        raise WeightsError(f"{path}: `{key}` names code of another repository, which nothing pins: {str(value)[:80]!r}")


def _names_code(path: str, key: str, value: Any) -> bool:
    text = value if isinstance(value, str) else ""
    if key in _CODE_KEYS or (key in _ATTENTION_KEYS and "/" in text) or _REFERENCE.fullmatch(text):
        return True
    if path.endswith("modules.json"):
        return key == "type" and not _MODULE.fullmatch(text)
    return key in _CLASS_KEYS and "." in text and not _MODULE.fullmatch(text)


def _check_index(path: str, said: Any) -> None:
    """The files that an index names lie beside it, all of them."""
    names = said.get("weight_map") if isinstance(said, dict) else None
    if not isinstance(names, Mapping):
        raise WeightsError(f"{path}: has no `weight_map`")
    for name in {str(each) for each in names.values()}:
        check_name(name)


def _check_template(path: str, text: str) -> None:
    if found := _INTERNALS.search(text):
        raise WeightsError(f"{path}: its chat template reaches for Python's own `{found[0]}`")


def _check_template_file(path: str, file: Path, _trust: Trust) -> None:
    if file.stat().st_size > _LONGEST_CONFIG:
        raise WeightsError(f"{path}: is too large for a template")
    _check_template(path, file.read_text(encoding="utf-8", errors="replace"))


def _check_safetensors(_path: str, file: Path, _trust: Trust) -> None:
    read_safetensors(reader(file), file.stat().st_size)


def _check_gguf(path: str, file: Path, _trust: Trust) -> None:
    header = read_gguf(reader(file), file.stat().st_size)
    for key, value in header.metadata.items():
        if key.startswith(TEMPLATE) and isinstance(value, str):
            _check_template(f"{path}: {key}", value)


def reader(file: Path) -> Callable[[int, int], bytes]:
    """Reads pieces of a file."""

    def read(start: int, count: int) -> bytes:
        with file.open("rb", buffering=0) as stream:
            stream.seek(start)
            return stream.read(count)

    return read


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every value that is no container, with the key that it stands under; and each mapping under a key of its own."""
    waiting = [(key, value)]
    while waiting:
        key, value = waiting.pop()
        if isinstance(value, dict):
            yield key, value
            waiting += [(str(name), each) for name, each in value.items()]
        elif isinstance(value, list):
            waiting += [(key, each) for each in value]
        else:
            yield key, value


_BY_SUFFIX: dict[str, Callable[[str, Path, Trust], None]] = {
    ".json": _check_json,
    ".jinja": _check_template_file,
    ".safetensors": _check_safetensors,
    ".gguf": _check_gguf,
}
