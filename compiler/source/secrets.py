"""What looks like a password: refused in config files, and masked wherever a line of one is shown."""

import re
from collections.abc import Iterator
from functools import lru_cache

from compiler.source.tree import Mapping, Node, Scalar, Sequence

_TOKEN = re.compile(
    r"hf_[A-Za-z0-9]{16,}|(?:AKIA|ASIA)[A-Z0-9]{16}|sk-[A-Za-z0-9_-]{20,}|gh[pousr]_[A-Za-z0-9]{30,}"
    r"|glpat-[A-Za-z0-9_-]{16,}|xox[abprs]-[A-Za-z0-9-]{10,}|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)
"""Tokens by their form: Hugging Face, AWS, OpenAI, GitHub, GitLab, Slack, PEM."""
_PASSWORD_IN_URL = re.compile(r"(?<=://)([^/\s:@]+:[^/\s@]+)(?=@)")
_NAME = r"(?:[A-Za-z0-9]+[_-])*(?:token|secret|password|passwd|api_?key|access_?key(?:_id)?)"
_SPECIAL_TOKEN = re.compile(r"(?:audio|bos|cls|eos|image|mask|pad|sep|stop|unk)_token")
"""Tokens of a tokenizer, which are no secrets."""
_SECRET_NAME = re.compile(rf"{_NAME}|.*secret.*|.*password.*", re.IGNORECASE)
_SECRET_LINE = re.compile(rf"((?:^|[\s{{,\"'])({_NAME})[\"']?\s*:\s*)([^\s#].*)", re.IGNORECASE)
_NO_SECRET = re.compile(r"\{\s*from_env\b.*|(?:true|false|null|~)\b.*", re.IGNORECASE)
"""What may stand behind a secret's key."""


def secrets_in(node: Node, name: str = "") -> Iterator[tuple[str, Node]]:
    """Each value that is a secret, with what gives it away: its key, or its form."""
    match node:
        case Mapping():
            for entry in node.entries.values():
                yield from secrets_in(entry.value, entry.key)
        case Sequence():
            for item in node.items:
                yield from secrets_in(item, name)
        case Scalar(value=str(text)) if text:
            if _TOKEN.search(text) or _PASSWORD_IN_URL.search(text):
                yield "its form", node
            elif _is_secret(name):
                yield f"its key `{name}`", node


@lru_cache
def _is_secret(name: str) -> bool:
    return bool(_SECRET_NAME.fullmatch(name)) and not _SPECIAL_TOKEN.fullmatch(name)


def masked(text: str) -> str:
    """`text` without secrets, as long as it was wherever that is possible, for carets to point at."""
    for pattern in (_TOKEN, _PASSWORD_IN_URL):
        text = pattern.sub(lambda match: "*" * len(match[0]), text)
    return _SECRET_LINE.sub(_masked_value, text)


def _masked_value(line: re.Match[str]) -> str:
    before, name, value = line.groups()
    harmless = _SPECIAL_TOKEN.fullmatch(name) or _NO_SECRET.fullmatch(value)
    return line[0] if harmless else before + "*" * len(value)
