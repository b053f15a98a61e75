"""Builds of 100, 1,000 and 10,000 models, next to other tools: `python -m benchmarks.builds [--sizes ...] [--plot]`.

All in one run, round by round, so that a machine whose speed drifts slows all alike. Every tool's result is compared
with what the layers say before its time counts.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from benchmarks import peers
from benchmarks.registry import layers, write
from benchmarks.usage import ROOT, Usage, usage
from compiler.build.keys import digest

LLM_SERVE = [str(Path(sys.executable).parent / "llm-serve"), "compile"]
MOST = {"hydra": 100, "omegaconf": 1000}
"""The largest registry that a tool is asked to merge: it takes minutes for more."""
LARGE = 10_000
"""From here on one round: it takes minutes, and single seconds do not matter."""
_BEGIN, _END = "<!-- benchmarks.builds writes this -->", "<!-- until here -->"
TARGETS = {
    "no-op": (0.04, 0.05, 0.20),
    "one model changed": (0.15, 0.20, 0.40),
    "base changed, same outputs": (0.25, 0.6, 3.5),
    "full, same outputs": (0.25, 0.6, 3.5),
    "cold": (0.30, 0.9, 9),
}
"""CPU seconds that we aim at, for 100, 1,000 and 10,000 models."""


def scenarios(root: Path, round_: int) -> dict[str, Callable[[], None]]:
    """What is done to a project that is up to date before the compile that is measured."""
    model = sorted((root / "registry").glob("*.yaml"))[round_]

    def edit(file: Path, old: str, new: str) -> None:
        file.write_text(file.read_text().replace(old, new))

    def away(*names: str) -> None:
        # aside, not deleted: ext4 takes 0.3 ms to make a file while as many have just been deleted
        for name in names:
            (root / name).rename(Path(tempfile.mkdtemp(dir=root.parent)) / name)

    return {
        "no-op": lambda: None,
        "one model changed": lambda: edit(model, "main-safetensors", "other-safetensors"),
        "base changed, same outputs": lambda: edit(root / "base/defaults.yaml", "warmup: true", "warmup: true  #"),
        "full, same outputs": lambda: away(".llm-serve"),
        "cold": lambda: away(".llm-serve", "generated"),
    }


def ours(root: Path, round_: int, results: dict[str, list[Usage]]) -> None:
    """Every scenario, each after a compile that has nothing left to do."""
    for name, change in scenarios(root, round_).items():
        subprocess.run(LLM_SERVE, cwd=root, check=True, stdout=subprocess.DEVNULL)
        change()
        results.setdefault(name, []).append(usage(LLM_SERVE, root))


def check_ours(root: Path, wanted: dict[str, peers.Tree]) -> None:
    """Our merged configs, by the hashes in the manifest."""
    found = json.loads((root / "generated/manifest.json").read_text())["models"]
    for name, tree in wanted.items():
        whole = {"enabled": True, **tree} if "enabled" in tree else tree
        text = json.dumps(whole, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        assert found[name]["effective"] == digest(text.encode()), f"llm-serve: {name}"


def theirs(tool: str, source: Path, wanted: dict[str, peers.Tree]) -> Usage:
    """One tool, once, its results compared. They stay until all is measured."""
    target = tempfile.mkdtemp(dir=source.parent)
    spent = usage([sys.executable, "-m", "benchmarks.peers", tool, str(source), target], ROOT)
    for name, tree in wanted.items():
        found = json.loads((Path(target) / f"{name}.json").read_text())
        assert found == tree, f"{tool}: {name}"
    return spent


def ninja(folder: Path, models: int) -> Callable[[], Usage]:
    """ninja with as many files to look at, and nothing to do."""
    rules = ["rule compile", "  command = false", "  generator = 1", ""]
    for number in range(models):
        rules.append(f"build out/{number}: compile in/{number} in/base")
    for name in ("in", "out"):
        (folder / name).mkdir()
    for name in [
        "in/base",
        *(f"in/{number}" for number in range(models)),
        *(f"out/{number}" for number in range(models)),
    ]:
        (folder / name).touch()
    (folder / "build.ninja").write_text("\n".join([*rules, ""]))
    command = [str(Path(sys.executable).parent / "ninja")]
    return lambda: usage(command, folder)


def measure(models: int, rounds: int) -> dict[str, Usage]:
    """Medians by name, for one size."""
    wanted = peers.merged_layers(layers(models))
    results: dict[str, list[Usage]] = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "ours"
        write(root, models)
        subprocess.run(LLM_SERVE, cwd=root, check=True, stdout=subprocess.DEVNULL)
        check_ours(root, wanted)
        tools = [tool for tool in peers.TOOLS if models <= MOST.get(tool, models)]
        for tool in tools:
            peers.prepare(tool, layers(models), Path(folder) / tool)
        (Path(folder) / "ninja").mkdir()
        floor = ninja(Path(folder) / "ninja", models)
        for round_ in range(rounds):
            ours(root, round_, results)
            results.setdefault("ninja, no-op", []).append(floor())
            results.setdefault("python -c pass", []).append(usage([sys.executable, "-c", "pass"], ROOT))
            for tool in tools:
                results.setdefault(tool, []).append(theirs(tool, Path(folder) / tool, wanted))
    return {name: _median(spent) for name, spent in results.items()}


def _median(spent: list[Usage]) -> Usage:
    columns = ([getattr(each, name) for each in spent] for name in ("cpu", "wall", "peak"))
    return Usage(*(statistics.median(column) for column in columns))


def table(results: dict[int, dict[str, Usage]]) -> str:
    """Markdown: CPU seconds (wall, peak MB) by size."""
    sizes = sorted(results)
    lines = ["| CPU s (wall s, peak MB) | " + " | ".join(f"{size:,}" for size in sizes) + " | aim |"]
    lines.append("|---|" + "---|" * (len(sizes) + 1))
    for name in dict.fromkeys(name for size in sizes for name in results[size]):
        cells = [results[size].get(name) for size in sizes]
        shown = [f"{cell.cpu:.2f} ({cell.wall:.2f}, {cell.peak:.0f})" if cell else "-" for cell in cells]
        aim = " / ".join(f"{each:g}" for each in TARGETS[name]) if name in TARGETS else ""
        lines.append(f"| {name} | " + " | ".join(shown) + f" | {aim} |")
    return "\n".join(lines)


def plot(results: dict[int, dict[str, Usage]], file: Path) -> None:
    """CPU seconds over models, both logarithmic."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "llm-serve"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5.5))
    names = dict.fromkeys(name for row in results.values() for name in row)
    for name in names:
        points = [(size, row[name].cpu) for size, row in sorted(results.items()) if name in row]
        style = "-o" if name in TARGETS else "--s"
        axes.loglog(
            *zip(*points, strict=True), style, label=name if name in TARGETS else f"{name} (peer)", markersize=4
        )
    axes.set_xlabel("models")
    axes.set_ylabel("CPU seconds")
    axes.set_title("Builds: llm-serve checks and writes Ray Serve configs, its peers merge")
    axes.grid(visible=True, which="both", alpha=0.2)
    axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None})


def main() -> None:
    """Measure and print; with --write into docs/."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--write", action="store_true", help="table and plot into docs/builds.md")
    options = parser.parse_args()
    results = {size: measure(size, options.rounds if size < LARGE else 1) for size in options.sizes}
    print(table(results))
    if options.write:
        page = ROOT / "docs/builds.md"
        before, _, rest = page.read_text().partition(_BEGIN)
        page.write_text(f"{before}{_BEGIN}\n{table(results)}\n{_END}{rest.partition(_END)[2]}")
        plot(results, ROOT / "docs/builds.svg")


if __name__ == "__main__":
    main()
