"""Engines with processes of their own, when the one that holds them is killed."""

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.runtime.engines.test_contract import loaded

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("case", ["vLLM", "DeepSpeed x 2"])
def test_a_killed_engine_leaves_no_process(case: str) -> None:
    command = [sys.executable, "-m", "tests.runtime.engines.test_orphans", case]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        started = next(line for line in holder.stdout if line.startswith("started"))
        processes = [psutil.Process(int(pid)) for pid in started.split()[1:]]
        assert len(processes) > 1
        holder.kill()
    _, left = psutil.wait_procs(processes, timeout=20)
    assert not [process for process in left if process.status() != psutil.STATUS_ZOMBIE]


if __name__ == "__main__":
    engine = loaded(sys.argv[1])
    sys.stdout.write(f"started {' '.join(str(child.pid) for child in psutil.Process().children(recursive=True))}\n")
    sys.stdout.flush()
    time.sleep(60)
