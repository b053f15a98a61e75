"""`llm-serve`: verbs only. Parse, call, print, exit code. Everything heavy is imported by the verb that needs it.

Exit codes: 0 fine, 1 the config is wrong, 2 there are differences, 64 wrong usage, 70 a bug of ours.
"""

import argparse
import io
import os
import sys
import time
from pathlib import Path
from typing import NoReturn

OK, WRONG_CONFIG, DIFFERENT, WRONG_USAGE, OUR_BUG = 0, 1, 2, 64, 70
READER_GONE = 128 + 13
"""What shells say of a program that SIGPIPE has ended, as `llm-serve compile --check | head` does."""

EXAMPLES = """\
examples:
  llm-serve compile                 compile registry/ into generated/
  llm-serve compile --check         fail (exit 2, with a diff) if generated/ is not what registry/ says
  llm-serve compile --format json   diagnostics and changes for machines
"""


class _Parser(argparse.ArgumentParser):
    """argparse, with the exit code that shells expect of wrong usage (sysexits.h)."""

    def error(self, message: str) -> NoReturn:
        self.exit(WRONG_USAGE, f"{self.format_usage()}{self.prog}: {message}; see `llm-serve --help`\n")


class _Version(argparse.Action):
    """`--version`, looked up when it is asked for: that takes longer than all the rest of the parser."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
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
        exit_code = _compile(options)
        sys.stdout.flush()
        return exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it flushes at its end
        return READER_GONE
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        from compiler.report import print_failure

        if options.traceback:
            raise
        print_failure(f"internal error: {type(error).__name__}: {error}")
        print_failure("this is a bug in llm-serve; please report it with the output of --traceback")
        return OUR_BUG


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="llm-serve",
        description="Compile layered model configs into Ray Serve applications.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version")
    verbs = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    compile_ = verbs.add_parser(
        "compile",
        help="compile registry/ and base/ into generated/",
        description="Compile registry/ and base/ into generated/. Nothing is written while there are errors.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    compile_.add_argument("--check", action="store_true", help="write nothing; exit 2 with a diff on any difference")
    compile_.add_argument("--root", type=Path, help="the project's folder (default: the nearest one with a registry/)")
    compile_.add_argument("--format", choices=("human", "json"), default="human", help="how to print findings")
    compile_.add_argument("--traceback", action="store_true", help=argparse.SUPPRESS)
    return parser


def _compile(options: argparse.Namespace) -> int:
    from compiler import report
    from compiler.build.publish import differences, ours, publish
    from compiler.diagnostics import ConfigErrors
    from compiler.pipeline import compile_project, outputs
    from compiler.source.project import Project, find_root

    root = find_root(options.root or Path.cwd())
    if root is None or (options.root and root != options.root):
        report.print_failure(f"there is no registry/ in {options.root or 'this folder or above it'}")
        return WRONG_CONFIG
    project = Project(root)
    start = time.perf_counter()
    try:
        compiled = compile_project(project)
        changes, foreign = ours(root, differences(root, outputs(compiled)))
        if not options.check:
            publish(root, changes)
    except ConfigErrors as errors:
        if options.format == "json":
            report.print_json(errors.diagnostics, {"changes": []})
        else:
            report.print_diagnostics(errors.diagnostics, project.line)
        return WRONG_CONFIG
    seconds = time.perf_counter() - start
    warnings = [*compiled.found, *foreign]
    if options.format == "json":
        report.print_json(warnings, {"changes": [change.path for change in changes]})
    else:
        report.print_diagnostics(warnings, project.line)
        if options.check:
            report.print_differences(changes, foreign)
        else:
            report.print_compiled(len(compiled.enabled), len(compiled.clusters), seconds, changes)
    return DIFFERENT if options.check and (changes or foreign) else OK


if __name__ == "__main__":
    sys.exit(main())
