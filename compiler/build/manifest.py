"""`generated/manifest.json`: what was built from what. A line for each thing, so that diffs are short."""

import json
from collections.abc import Iterable, Mapping

from compiler.facts import Facts


def entry(facts: Facts) -> str:
    """A model's entry. `effective` is the hash of its merged config, so that comments do not count."""
    return json.dumps({"layers": facts.layers, "effective": facts.effective})


def manifest(entries: Iterable[tuple[str, str]], outputs: Mapping[str, str]) -> bytes:
    """The file, of models' entries by their names, sorted, and of the hashes of all other files."""
    models = ",\n".join(f"    {json.dumps(name)}: {text}" for name, text in entries)
    hashes = ",\n".join(f"    {json.dumps(path)}: {json.dumps(sha)}" for path, sha in sorted(outputs.items()))
    return f'{{\n  "models": {{\n{models}\n  }},\n  "outputs": {{\n{hashes}\n  }}\n}}\n'.encode()


def outputs_in(data: bytes) -> dict[str, str]:
    """The hashes that a manifest lists by path; none where it is not one."""
    try:
        outputs = json.loads(data).get("outputs", {})
    except (ValueError, RecursionError, AttributeError):
        return {}
    wanted = isinstance(outputs, dict) and all(isinstance(sha, str) for sha in outputs.values())
    return dict(outputs) if wanted else {}
