"""`compile`, and `compile --check`."""

import argparse
import time
from collections.abc import Callable

from compiler.build.cache import cache_at
from compiler.build.publish import Change, differences, digests_on_disk, read
from compiler.check.locks import about_unlocked
from compiler.diagnostics import ConfigErrors
from compiler.exits import DIFFERENT, OK, WRONG_CONFIG
from compiler.make import Way, make
from compiler.pipeline import compile_project
from compiler.report import printing as report
from compiler.report.compiled import print_compiled, print_warning
from compiler.verbs.project import listener, print_findings, project_of


def compile_(options: argparse.Namespace) -> int:
    """Sources to generated/, or with --check only a comparison."""
    if options.check:
        return _check(options)
    if options.watch:
        from compiler.verbs.watch import watch

        return watch(project_of(options).root, listener(), way_of(options))
    project = project_of(options)
    start = time.perf_counter()
    try:
        made = make(project.root, listener(), way_of(options))
    except ConfigErrors as errors:
        print_findings(options, project, errors.diagnostics, {"changes": []}, "nothing was written")
        return WRONG_CONFIG
    seconds = time.perf_counter() - start
    unlocked = made.compilation.unlocked
    changed = [each.path for each in made.differences]
    print_findings(options, project, made.found, {"changes": changed, "unlocked": unlocked})
    if options.format == "human":
        models, clusters = len(made.compilation.models), len(made.compilation.clusters)
        print_compiled(models, clusters, seconds, len(made.compilation.built), made.differences)
    print_warning(about_unlocked(unlocked))
    return OK


def way_of(options: argparse.Namespace) -> Way:
    """How to compile, by the command line. Raises ConfigErrors where the cache cannot be used."""
    return Way(options.force, cache_at(options.cache) if options.cache else None, options.jobs)


def _check(options: argparse.Namespace) -> int:
    """What a compile would change, worked out without any cache."""
    project = project_of(options)
    try:
        compilation = compile_project(project)
    except ConfigErrors as errors:
        print_findings(options, project, errors.diagnostics, {"changes": []})
        return WRONG_CONFIG
    found = differences(digests_on_disk(project.root), compilation.outputs)
    changed = [each.path for each in found]
    print_findings(options, project, compilation.found, {"changes": changed, "unlocked": compilation.unlocked})
    blob = compilation.store.blob
    changes = (Change(each.path, read(project.root, each.path), blob(each.new) if each.new else None) for each in found)
    report.print_differences(changes, len(found), diff=options.format == "human")
    print_warning(about_unlocked(compilation.unlocked))
    return DIFFERENT if found else OK


VERBS: dict[str, Callable[[argparse.Namespace], int]] = {"compile": compile_}
