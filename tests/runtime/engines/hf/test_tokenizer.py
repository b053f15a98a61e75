"""What the tokenizer of a folder brings with it."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from demo.model import fetch_safetensors
from runtime.engines.hf.tokenizer import load_tokenizer


@pytest.mark.parametrize("in_files", [True, False], ids=["files", "tokenizer_config.json"])
@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("A", ("A", None)),
        ({"default": "A", "tool_use": "B"}, ("A", "B")),
        ({"default": "A", "rag": "C"}, ("A", None)),
        ({"tool_use": "B"}, (None, "B")),
        (None, (None, None)),
        ("", (None, None)),
    ],
)
def test_chat_templates(tmp_path: Path, said, expected: tuple[str | None, str | None], in_files: bool) -> None:
    """Written as transformers writes them, in both of its ways."""
    tokenizer = AutoTokenizer.from_pretrained(fetch_safetensors())
    tokenizer.chat_template = said
    tokenizer.save_pretrained(tmp_path, save_jinja_files=in_files)
    loaded = load_tokenizer(tmp_path)
    assert (loaded.chat_template, loaded.tool_template) == expected
