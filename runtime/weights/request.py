"""What a model asks for: which files of which repository, from where, and what it lets them do."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from runtime.application import ModelArguments
from runtime.schema.lock import COMMIT_PATTERN, WeightsLock
from runtime.schema.weights import S3MirrorConfig
from runtime.weights.inspection import Trust
from runtime.weights.selection import Wanted

_INITIALIZATION = "model_config.initialization"


@dataclass(frozen=True, slots=True)
class Request:
    """`asked_by`: the field that an error names, of the file `declared_in`."""

    repository: str
    revision: str = "main"
    lock: WeightsLock | None = None
    mirror: S3MirrorConfig = field(default_factory=S3MirrorConfig)
    wanted: Wanted = field(default_factory=Wanted)
    asked_by: str = "model_config.model_id"
    declared_in: str = ""

    @classmethod
    def of(cls, arguments: ModelArguments, *, will_be_locked: bool = False) -> Self:
        """What the arguments of an application say. `will_be_locked`: files are looked at for a lock, not loaded."""
        initialization = arguments.initialization
        mirror = initialization.s3_mirror_config or S3MirrorConfig()
        own = f"{_INITIALIZATION}.hf_model_id" if initialization.hf_model_id else "model_config.model_id"
        return cls(
            arguments.repository,
            initialization.revision,
            arguments.lock,
            mirror,
            _wanted(arguments, is_locked=will_be_locked or arguments.lock is not None),
            f"{_INITIALIZATION}.s3_mirror_config.bucket_uri" if mirror.bucket_uri else own,
            arguments.declared_in,
        )

    @property
    def local_folder(self) -> Path | None:
        """The folder that the mirror is, if it is one."""
        uri = self.mirror.bucket_uri or ""
        if not uri or "://" in uri.removeprefix("file://"):
            return None
        return Path(uri.removeprefix("file://"))

    @property
    def commit(self) -> str | None:
        """The commit that is pinned, by a lock or by the revision itself."""
        if self.lock:
            return self.lock.commit
        return self.revision if re.fullmatch(COMMIT_PATTERN, self.revision) else None


def _wanted(arguments: ModelArguments, *, is_locked: bool) -> Wanted:
    initialization = arguments.initialization
    initializer = initialization.initializer
    kwargs = getattr(initializer, "from_pretrained_kwargs", None) or getattr(initializer, "engine_kwargs", None) or {}
    trust = Trust(
        code=kwargs.get("trust_remote_code") is True and (is_locked or initialization.pins_code),
        pickles=kwargs.get("use_safetensors") is False and is_locked,
    )
    filename = getattr(initializer, "model_filename", None) or kwargs.get("gguf_file")
    reads_gguf = initialization.engine.reads == "gguf" or "gguf_file" in kwargs
    return Wanted(reads_gguf, filename if isinstance(filename, str) else None, trust)
