"""All that `lint --fix` does to a project: in memory, and only if nothing generated changes by it."""

from compiler.build.publish import Change
from compiler.diagnostics import ConfigErrors, Diagnostic
from compiler.edit.fix import apply
from compiler.pipeline import compile_project, outputs
from compiler.source.project import Project

MAX_ROUNDS = 20
"""A mend may show another one: an old name, and then that its value is the inherited one. More never came up."""


def mend(project: Project) -> list[Change]:
    """The files as they should be. Raises ConfigErrors where the project does not compile.

    Old names go first, because what is dead is found under today's names. A mend that would change what is generated
    is left out: nothing here is worth that.
    """
    texts: dict[str, str] = {}
    tried: set[tuple[str, tuple[str, ...]]] = set()
    before = outputs(compile_project(project))
    for _ in range(MAX_ROUNDS):
        found = [each for each in compile_project(_with(project, texts)).found if each.fix and each.primary]
        todo = [each for each in found if _key(each) not in tried]
        renames = [each for each in todo if each.code.startswith("W3")]
        if not todo:
            break
        for each in renames or todo:
            tried.add(_key(each))
            mended = _mended(project, texts, each)
            if mended and _same_outputs(project, {**texts, **mended}, before):
                texts |= mended
    return [Change(file, project.text(file).encode(), text.encode()) for file, text in sorted(texts.items())]


def _key(diagnostic: Diagnostic) -> tuple[str, tuple[str, ...]]:
    assert diagnostic.primary is not None and diagnostic.fix is not None
    return diagnostic.primary.span.file, diagnostic.fix.remove


def _mended(project: Project, texts: dict[str, str], diagnostic: Diagnostic) -> dict[str, str]:
    assert diagnostic.primary is not None and diagnostic.fix is not None
    file = diagnostic.primary.span.file
    text = apply(texts.get(file) or project.text(file), file, diagnostic.fix)
    return {} if text is None else {file: text}


def _same_outputs(project: Project, texts: dict[str, str], before: dict[str, bytes]) -> bool:
    try:
        return outputs(compile_project(_with(project, texts))) == before
    except ConfigErrors:
        return False


def _with(project: Project, texts: dict[str, str]) -> Project:
    return project.changed({file: text.encode() for file, text in texts.items()})
