"""`python -m benchmarks.usage COMMAND...`: what a command costs, as JSON on standard error's last line.

A small process in between: the kernel counts the parent's memory to a child that has not yet become its program.
"""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU and wall time in seconds, peak memory in MB."""

    cpu: float
    wall: float
    peak: float


def usage(command: list[str], cwd: Path) -> Usage:
    """Run a command and say what it took. Raises CalledProcessError."""
    start = time.perf_counter()
    run = [sys.executable, "-S", "-m", "benchmarks.usage", *command]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(run, cwd=cwd, env=environment, check=True, capture_output=True, text=True)
    wall = time.perf_counter() - start
    cpu, inner, peak = json.loads(done.stderr.splitlines()[-1])
    return Usage(cpu, min(wall, inner), peak)


if __name__ == "__main__":
    begin = time.perf_counter()
    process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    spent = [used.ru_utime + used.ru_stime, time.perf_counter() - begin, used.ru_maxrss / 1e3]
    sys.stderr.write(f"{json.dumps(spent)}\n")
    sys.exit(os.waitstatus_to_exitcode(status))
