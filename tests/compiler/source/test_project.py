"""Files are found under the root and nowhere else."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compiler.diagnostics import ConfigErrors
from compiler.source.project import Project
from compiler.source.walk import find_root
from tests.compiler.support import ENGINE, write

HOSTILE = st.text(st.sampled_from("./\\ab%~:\0-\u2024\n "), min_size=1, max_size=12) | st.sampled_from(
    ["..", "../registry/a", "/etc/passwd", "a/../../x", "./a", "a//b", "a/", "C:\\a", "~/a", "a" * 300]
)


@given(HOSTILE)
def test_no_name_leads_out_of_the_tree(name: str) -> None:
    files = Project(Path("/nowhere")).layer_files(name)
    assert files == []
    assert all(".." not in file.split("/") for file in files)


def test_a_hostile_name_finds_nothing_even_where_something_is(tmp_path: Path) -> None:
    root = write(tmp_path / "project", {"registry/a.yaml": ENGINE, "../secret.yaml": "a: 1\n", "base/x.yaml": "{}\n"})
    project = Project(root)
    assert project.layer_files("a") == ["registry/a.yaml"]
    for name in ("../secret", "../../secret", "./a", "a.yaml", "x/../a", str(tmp_path / "secret")):
        assert project.layer_files(name) == []


def test_names_are_sorted_and_clusters_are_no_models(tmp_path: Path) -> None:
    files = ("registry/b.yaml", "registry/a.yaml", "registry/clusters/gpu.yaml", "base/e/z.yaml", "base/d.yaml")
    project = Project(write(tmp_path, dict.fromkeys(files, "{}\n")))
    assert (project.models, project.clusters, project.profiles) == (["a", "b"], ["gpu"], ["d", "e/z"])


def test_what_is_no_regular_file_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    root = write(tmp_path, {"registry/a.yaml": ENGINE})
    os.mkfifo(root / "registry" / "pipe.yaml")
    for file in ("registry/pipe.yaml", "registry/none.yaml"):
        with pytest.raises(ConfigErrors, match="cannot be read"):
            Project(root).tree(file)


def test_a_file_is_parsed_once_and_fails_alike_each_time(tmp_path: Path) -> None:
    project = Project(write(tmp_path, {"registry/a.yaml": "a: 1\n", "registry/b.yaml": "[\n"}))
    assert project.tree("registry/a.yaml") is project.tree("registry/a.yaml")
    for _ in range(2):
        with pytest.raises(ConfigErrors, match="flow"):
            project.tree("registry/b.yaml")


def test_the_root_is_the_nearest_folder_with_a_registry(tmp_path: Path) -> None:
    root = write(tmp_path / "project", {"registry/a.yaml": "{}\n", "base/deep/b.yaml": "{}\n"})
    assert find_root(str(root / "base" / "deep")) == str(root)
    assert find_root(str(tmp_path)) is None
