"""A Hugging Face tokenizer, and the bytes of its tokens."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as FastTokenizer

from runtime.engines.contract import Tokenizer
from runtime.errors import EngineError

_BYTE = re.compile(r"<0x([0-9A-F]{2})>")
_SPACE = "\u2581"
"""What a space is in the vocabularies of SentencePiece."""


def load_tokenizer(folder: Path, **options: Any) -> "HfTokenizer":
    """The tokenizer of a model's folder. Raises EngineError where its tokens cannot be turned into text one by one."""
    loaded = _loaded(folder, options)
    said = loaded.chat_template
    templates = said if isinstance(said, dict) else {"default": said}
    named = {name: text for name, text in loaded.special_tokens_map.items() if isinstance(text, str)}
    default, for_tools = (templates.get(name) or None for name in ("default", "tool_use"))
    return HfTokenizer(loaded.backend_tokenizer, default, named, for_tools)


def load_whole_tokenizer(folder: Path, **options: Any) -> "WholeTokenizer":
    """The tokenizer of an embedding model's folder. Raises EngineError where it has no `tokenizer.json`."""
    fast = _loaded(folder, options).backend_tokenizer
    fast.no_truncation()
    fast.no_padding()
    return WholeTokenizer(fast)


def _loaded(folder: Path, options: dict[str, Any]) -> Any:
    from transformers import AutoTokenizer, PreTrainedTokenizerFast  # seconds, which a replica need not wait for

    loaded = AutoTokenizer.from_pretrained(folder, local_files_only=True, **options)
    if not isinstance(loaded, PreTrainedTokenizerFast):
        raise EngineError(f"{type(loaded).__name__} has no `tokenizer.json`: its tokens have no bytes")
    return loaded


class HfTokenizer(Tokenizer):
    """Can be sent to another process."""

    def __init__(
        self,
        tokenizer: FastTokenizer,
        chat_template: str | None,
        special_tokens: dict[str, str],
        tool_template: str | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self.chat_template = chat_template
        self.tool_template = tool_template
        self.special_tokens = special_tokens
        added = tokenizer.get_added_tokens_decoder()
        self._texts = {token: "" if each.special else each.content for token, each in added.items()}
        self._is_byte_level = _is_byte_level(tokenizer)
        self._start = self._tokens_in_front()
        self._pieces: dict[int, bytes] = {}

    def _tokens_in_front(self) -> list[int]:
        """What the model wants before every prompt: a start token, or nothing."""
        bare, whole = (self._tokenizer.encode("a", add_special_tokens=add).ids for add in (False, True))
        return whole[: whole.index(bare[0])]

    def encode(self, text: str, *, start: bool = True) -> list[int]:
        tokens: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        if not start or tokens[: len(self._start)] == self._start:
            return tokens
        return [*self._start, *tokens]

    def decode(self, tokens: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=False))

    def piece(self, token: int) -> bytes:
        if token not in self._pieces:
            self._pieces[token] = self._render(token)
        return self._pieces[token]

    def label(self, token: int) -> bytes:
        return self.piece(token) or str(self._tokenizer.id_to_token(token) or "").encode()

    def _render(self, token: int) -> bytes:
        if token in self._texts:
            return self._texts[token].encode()
        text = self._tokenizer.id_to_token(token)
        if text is None:
            return b""  # the model's last rows may be padding
        if self._is_byte_level:
            return bytes(_BYTES[character] for character in text)
        if byte := _BYTE.fullmatch(text):
            return bytes([int(byte[1], 16)])
        return str(text).replace(_SPACE, " ").encode()


class WholeTokenizer(Tokenizer):
    """Texts with all marks around them that the model was trained with. Can be sent to another process."""

    chat_template = None

    def __init__(self, tokenizer: FastTokenizer) -> None:
        self._tokenizer = tokenizer
        self.special_tokens: dict[str, str] = {}

    def encode(self, text: str, *, start: bool = True) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=start).ids)

    def decode(self, tokens: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=False))

    def piece(self, token: int) -> bytes:
        return str(self._tokenizer.decode([token], skip_special_tokens=True)).encode()

    def label(self, token: int) -> bytes:
        return str(self._tokenizer.id_to_token(token) or "").encode()


def _is_byte_level(tokenizer: FastTokenizer) -> bool:
    """Whether its vocabulary writes bytes as letters (as GPT-2's does), or text with SentencePiece's marks."""
    kinds = set(_decoders(json.loads(tokenizer.to_str())["decoder"]))
    if "ByteLevel" in kinds:
        return True
    if kinds & {"ByteFallback", "Metaspace", "Replace"}:
        return False
    raise EngineError(f"tokens with the decoder {', '.join(sorted(kinds)) or 'none'} cannot be streamed")


def _decoders(node: dict[str, Any] | None) -> Iterator[str]:
    if node:
        yield node["type"]
        for inner in node.get("decoders", ()):
            yield from _decoders(inner)


def _letters_of_bytes() -> dict[str, int]:
    """GPT-2's letters for bytes. Source: openai/gpt-2, `bytes_to_unicode`: printable ones stand for themselves."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


_BYTES = _letters_of_bytes()
