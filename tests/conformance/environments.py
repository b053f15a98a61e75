"""The clients that the API is tried with: each has an environment of its own, with the versions in `requirements/`.

An environment is made the first time, and again when its requirements change. Everything comes from PyPI.
"""

import subprocess
import venv
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / ".clients"
"""Environments, which may be deleted."""
_REQUIREMENTS = Path(__file__).parent / "requirements"


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
