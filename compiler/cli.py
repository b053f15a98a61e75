"""`llm-serve`: verbs only. Parse, call, print, exit code. Everything heavy is imported by the verb that needs it.

Exit codes: 0 fine, 1 the config is wrong, 2 there are differences, 64 wrong usage, 70 a bug of ours.
"""

import argparse
import io
import os
import sys
import time
from typing import TYPE_CHECKING

from compiler.exits import INTERRUPTED, OK, OUR_BUG, READER_GONE, WRONG_USAGE

if TYPE_CHECKING:
    from pathlib import Path
    from typing import NoReturn

EXAMPLES = """\
examples:
  llm-serve compile                 compile registry/ into generated/
  llm-serve compile --check         fail (exit 2, with a diff) if generated/ is not what registry/ says
  llm-serve lint --fix              find what is probably not meant so, and mend what can be mended
  llm-serve explain mosaicml--mpt-7b-chat model_config.generation.max_batch_size
  llm-serve new acme/chat-7b --extends families/mpt --extends engines/vllm
  llm-serve keys new team-a >> keys.toml
  llm-serve explain-code W203       what a code of a finding means
  llm-serve chat                    talk to the model that runs on this machine
  llm-serve bench http://127.0.0.1:8000 --clients 1 8 32 --goal ttft=500
"""

_FINDINGS = ("human", "json", "github", "sarif")
_PLAIN = ("human", "json")


class _Parser(argparse.ArgumentParser):
    """argparse, with the exit code that shells expect of wrong usage (sysexits.h)."""

    def error(self, message: str) -> "NoReturn":
        self.exit(WRONG_USAGE, f"{self.format_usage()}{self.prog}: {message}; see `llm-serve --help`\n")


class _Version(argparse.Action):
    """`--version`, looked up when it is asked for: that takes longer than all the rest of the parser."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> "NoReturn":
        from importlib.metadata import version

        sys.stdout.write(f"llm-serve {version('llm-serve')}\n")
        parser.exit()


def main(arguments: list[str] | None = None) -> int:
    """Run one verb and return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that cannot show a character shows its number
    options = _parser().parse_args(arguments)
    try:
        plain = options.verb == "compile" and options.format == "human" and not (options.check or options.watch)
        if plain and _is_current(options.root):
            return OK
        os.environ["PYDANTIC_DISABLE_PLUGINS"] = "__all__"  # they would have a say in builds, and are slow to find
        from compiler.verbs import run

        exit_code = run(options)
        sys.stdout.flush()
        return exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it flushes at its end
        return READER_GONE
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        from compiler.report.printing import print_failure

        if options.traceback:
            raise
        print_failure(f"internal error: {type(error).__name__}: {error}")
        print_failure("this is a bug in llm-serve; please report it with the output of --traceback")
        return OUR_BUG


def _path(text: str) -> "Path":
    from pathlib import Path  # as heavy as all the rest of a compile with nothing to do

    return Path(text)


def _is_current(root: "Path | None") -> bool:
    """Whether there is nothing to compile, and says so. Loads a fraction of what a compile needs."""
    from compiler.build.snapshot import unchanged
    from compiler.source.walk import find_root

    start = time.perf_counter()
    folder = str(root) if root else find_root(os.getcwd())
    try:
        summary = unchanged(folder) if folder else None
    except OSError:
        return False  # which the compile meets too, and explains
    if not summary:
        return False
    from compiler.report.compiled import print_compiled, print_warning

    models, clusters, warning = summary.split(" ", 2)
    print_compiled(int(models), int(clusters), time.perf_counter() - start, built=0)
    print_warning(warning)
    return True


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="llm-serve",
        description="Compile layered model configs into Ray Serve applications.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version")
    verbs = parser.add_subparsers(title="commands", metavar="COMMAND", dest="verb", required=True)

    compile_ = _verb(verbs, "compile", "compile registry/ and base/ into generated/", _FINDINGS)
    compile_.description = "Compile registry/ and base/ into generated/. Nothing is written while there are errors."
    how = compile_.add_mutually_exclusive_group()
    how.add_argument("--check", action="store_true", help="write nothing; exit 2 with a diff on any difference")
    how.add_argument("--watch", action="store_true", help="compile again at each save, and say what that changes")
    compile_.add_argument("--jobs", type=_jobs, default=1, metavar="N", help="processes for a large build (default: 1)")
    compile_.add_argument(
        "--cache",
        metavar="DIR|s3://BUCKET/PREFIX",
        help="share builds with other checkouts (needs LLM_SERVE_CACHE_KEY)",
    )
    compile_.add_argument("--force", action="store_true", help="write over generated files that were edited by hand")

    lint = _verb(verbs, "lint", "find what is wrong, or probably not meant so; exit 1 if anything is", _FINDINGS)
    lint.add_argument("--fix", action="store_true", help="remove dead overrides, write new names for old ones")

    explain = _verb(verbs, "explain", "say what a value is, and every layer that set it", _PLAIN)
    _about_a_model(explain)
    explain.add_argument(
        "path", nargs="?", default="", help="such as scaling_config.num_workers; all values if left out"
    )

    show = _verb(verbs, "show", "print the merged config of a model", ())
    _about_a_model(show)
    show.add_argument("--origins", action="store_true", help="say behind each line where it is from")

    ls = _verb(verbs, "ls", "list models", _PLAIN)
    graph = _verb(verbs, "graph", "draw which layers lie on which", ("text", "dot", "mermaid"))
    for each in (ls, graph):
        each.epilog = SELECTORS
        each.add_argument("selectors", nargs="*", metavar="SELECTOR", help="which models; all if left out")

    new = _verb(verbs, "new", "write a new model file", ())
    new.add_argument("model_id", metavar="MODEL_ID", help="public name and hub repository, such as acme/chat-7b")
    new.add_argument("--extends", action="append", default=[], metavar="LAYER", help="a layer to stand on; repeatable")

    fmt = _verb(verbs, "fmt", "put the keys of files in order and tidy their lines", ())
    fmt.add_argument("files", nargs="*", metavar="FILE", help="which files; all of base/ and registry/ if left out")
    fmt.add_argument("--check", action="store_true", help="write nothing; exit 2 if a file is not in its form")

    schema = _verb(verbs, "schema", "write the schemas that editors check files with", ())
    schema.add_argument("--check", action="store_true", help="write nothing; exit 2 if they are not current")

    _build_verbs(verbs)
    _client_verbs(verbs)
    keys = _verb(verbs, "keys", "make an API key for a server", (), of_project=False)
    keys.add_argument("what", choices=("new",), help="new: show a new key, and print its entry of the file of keys")
    keys.add_argument("name", metavar="NAME", help="whose it is; logs and limits go by it")
    _weights_verbs(verbs)

    explain_code = _verb(verbs, "explain-code", "say what a code of a finding means", ())
    explain_code.add_argument("code", nargs="?", metavar="CODE", help="such as E301; all codes if left out")
    return parser


def _build_verbs(verbs: "argparse._SubParsersAction[_Parser]") -> None:
    derivation = _verb(verbs, "derivation", "say what goes into a model's build, by its hash", _PLAIN)
    why = _verb(verbs, "why-rebuilt", "say which input of a model has changed", ())
    for each in (derivation, why):
        each.add_argument("model", metavar="MODEL", help="file name or model id")

    generations = _verb(verbs, "generations", "list the states of generated/ that were published", _PLAIN)
    generations.add_argument("--pin", type=int, metavar="N", help="keep a generation whatever gc does")
    generations.add_argument("--unpin", type=int, metavar="N", help="keep it no longer")

    rollback = _verb(verbs, "rollback", "bring a generation back, byte for byte", ())
    rollback.add_argument("number", type=int, nargs="?", metavar="N", help="which one; the one before if left out")
    rollback.add_argument("--force", action="store_true", help="write over generated files that were edited by hand")

    gc = _verb(verbs, "gc", "throw away what no generation needs", ())
    gc.add_argument("--keep", type=_count, default=10, metavar="K", help="how many generations to keep (default: 10)")
    gc.add_argument("--dry-run", action="store_true", help="only say what would be removed")

    store = _verb(verbs, "store", "look after .llm-serve/store.db", ())
    store.add_argument("what", choices=("verify",), help="verify: compare everything in it with its hash")
    store.add_argument("--repair", action="store_true", help="drop what is wrong and build it again")


def _client_verbs(verbs: "argparse._SubParsersAction[_Parser]") -> None:
    chat = _verb(verbs, "chat", "talk to a model in the terminal", (), of_project=False)
    chat.add_argument("model", nargs="?", metavar="MODEL", help="its id; the server's only one if left out")
    chat.add_argument("--url", default="http://127.0.0.1:8000", help="the server's (default: %(default)s)")
    chat.add_argument("--system", metavar="TEXT", help="what the model is to be")
    chat.add_argument("--temperature", type=_number, metavar="T", help="0 takes the most likely token, always")
    chat.add_argument("--max-tokens", type=_positive, metavar="N", help="most tokens of an answer")

    bench = _verb(verbs, "bench", "measure a server under load: latency, throughput, goodput", _PLAIN, of_project=False)
    bench.add_argument("url", metavar="URL", help="of any OpenAI API, such as http://127.0.0.1:8000")
    bench.add_argument("--model", metavar="MODEL", help="its id; the server's only one if left out")
    bench.add_argument(
        "--clients", type=_positive, nargs="+", default=[], metavar="N", help="clients at a time (default: 1 8)"
    )
    bench.add_argument(
        "--rate", type=_above_zero, nargs="+", default=[], metavar="R", help="requests a second, at random moments"
    )
    bench.add_argument("--requests", type=_positive, default=32, metavar="N", help="of each load (default: 32)")
    bench.add_argument("--prompt-words", type=_positive, default=32, metavar="N", help="of a prompt (default: 32)")
    bench.add_argument("--tokens", type=_positive, default=64, metavar="N", help="of an answer (default: 64)")
    bench.add_argument(
        "--goal",
        type=_goal,
        action="append",
        default=[],
        metavar="NAME=MS",
        help="what a good answer keeps to: ttft, tpot or e2e, in ms; repeatable; shows the goodput",
    )
    bench.add_argument("--plot", type=_path, metavar="FILE", help="draw the figures (.svg, .png)")


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"`{text}` is not a number") from None


def _above_zero(text: str) -> float:
    value = _number(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"`{text}` is not a number above 0")
    return value


def _positive(text: str) -> int:
    if not (value := _count(text)):
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _goal(text: str) -> tuple[str, float]:
    """Name and seconds."""
    name, _, value = text.partition("=")
    if name not in ("ttft", "tpot", "e2e"):
        raise argparse.ArgumentTypeError(f"`{text}` is no goal: write ttft=MS, tpot=MS or e2e=MS")
    return name, _above_zero(value.removesuffix("ms")) / 1000


def _weights_verbs(verbs: "argparse._SubParsersAction[_Parser]") -> None:
    lock = _verb(verbs, "lock", "pin the bytes of models' weights in registry/locks/", ())
    lock.add_argument("models", nargs="*", metavar="MODEL", help="file names or model ids; all models if left out")
    lock.add_argument("--update", action="append", metavar="MODEL", help="write its lock anew; repeatable")
    lock.add_argument("--here", action="store_true", help="lock what the models' own sources hold; do not ask the hub")
    lock.add_argument("--check", action="store_true", help="ask nobody; exit 2 if a model has none, 1 if one is wrong")

    weights = _verb(verbs, "weights", "look after the files of models", _PLAIN)
    weights.add_argument(
        "what",
        choices=("pull", "verify", "push", "ls", "gc"),
        help="pull: fetch into the cache; verify: read every file again; push: fill a mirror; ls: what the cache has;"
        " gc: throw away what was used least",
    )
    weights.add_argument(
        "models", nargs="*", metavar="MODEL", help="for pull, verify and push: file names or model ids"
    )
    weights.add_argument("--to", metavar="s3://BUCKET/PREFIX|DIR", help="push: the mirror, if not the model's own")
    weights.add_argument("--keep-bytes", type=_count, metavar="N", help="gc: how much may stay")


def _jobs(text: str) -> int:
    return max(1, _count(text))


def _count(text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise argparse.ArgumentTypeError(f"`{text}` is not a number from 0 on")
    return int(text)


SELECTORS = """\
selectors:
  NAME, 'acme--*'      models by file name or glob
  base:engines/vllm    all that lie on a profile
  engine:vLLM          all that run on an engine
  cluster:gpu          all that a cluster serves
  +NAME, NAME+         a model and those that it lies on; and those that lie on it
  changed              those whose generated file is not current
"""


def _verb(
    verbs: "argparse._SubParsersAction[_Parser]",
    name: str,
    help_: str,
    formats: tuple[str, ...],
    *,
    of_project: bool = True,
) -> argparse.ArgumentParser:
    """A command, with the options that all have."""
    verb = verbs.add_parser(
        name,
        help=help_,
        description=f"{help_[0].upper()}{help_[1:]}.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    if of_project:
        verb.add_argument("--root", type=_path, help="the project's folder (default: the nearest one with a registry/)")
    verb.add_argument("--traceback", action="store_true", help=argparse.SUPPRESS)
    if formats:
        verb.add_argument("--format", choices=formats, default=formats[0], help="how to print the result")
    else:
        verb.set_defaults(format="human")
    return verb


def _about_a_model(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("model", metavar="MODEL", help="file name or model id")
    verb.add_argument("--cluster", metavar="NAME", help="as this cluster serves it, with its overlay")


if __name__ == "__main__":
    sys.exit(main())
