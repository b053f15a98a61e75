"""The git commit that a project is at, read from git's own files: a build starts no process."""

from pathlib import Path


def revision(root: Path) -> str | None:
    """The commit's hash; None outside a repository, or before its first commit."""
    folder = next((each / ".git" for each in (root, *root.parents) if (each / ".git").exists()), None)
    if folder is None:
        return None
    if folder.is_file():  # a worktree
        folder = (folder.parent / _text(folder).removeprefix("gitdir:").strip()).resolve()
    common = (folder / (_text(folder / "commondir").strip() or ".")).resolve()
    head = _text(folder / "HEAD").strip()
    if not head.startswith("ref: "):
        return head or None
    name = head.removeprefix("ref: ")
    packed = (line.split(" ") for line in _text(common / "packed-refs").splitlines())
    return _text(common / name).strip() or next((line[0] for line in packed if line[1:] == [name]), None)


def _text(file: Path) -> str:
    try:
        return file.read_text("utf-8", "replace")
    except OSError:
        return ""
