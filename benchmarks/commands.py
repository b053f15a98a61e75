"""Wall and CPU time of whole commands: `python -m benchmarks.commands`."""

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ROUNDS = 11
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "llm-serve --help": [str(Path(sys.executable).parent / "llm-serve"), "--help"],
    "llm-serve compile": [str(Path(sys.executable).parent / "llm-serve"), "compile"],
}


def main() -> None:
    """Print a table: the bare interpreter is the floor of both commands."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    for _ in range(ROUNDS):  # round by round, so that a machine whose speed drifts slows all alike
        for name, command in COMMANDS.items():
            times[name].append(measure(command))
    print(f"{'command':<20} {'wall, s':>10} {'CPU, s':>10}   medians of {ROUNDS}")
    for name, pairs in times.items():
        wall, cpu = (statistics.median(column) for column in zip(*pairs, strict=True))
        print(f"{name:<20} {wall:>10.3f} {cpu:>10.3f}")


def measure(command: list[str]) -> tuple[float, float]:
    """Wall and CPU seconds of one run."""
    before, start = os.times(), time.perf_counter()
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    after = os.times()
    cpu = after.children_user - before.children_user + after.children_system - before.children_system
    return time.perf_counter() - start, cpu


if __name__ == "__main__":
    main()
