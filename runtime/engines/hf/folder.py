"""What the config files in a model's folder say."""

import json
from pathlib import Path


def end_tokens_of(folder: Path) -> list[int]:
    """The tokens that end an answer: those of `generation_config.json` and of `config.json`."""
    found: set[int] = set()
    for name in ("generation_config.json", "config.json"):
        file = folder / name
        said = json.loads(file.read_text()).get("eos_token_id") if file.is_file() else None
        found |= set(said if isinstance(said, list) else [] if said is None else [said])
    return sorted(found)
