"""What goes into a build, and what of it has changed, in words."""

from pathlib import Path

import pytest

from compiler.cli import main
from tests.compiler.support import write

FILES = {
    "base/defaults.yaml": "model_config: {initialization: {initializer: {type: vLLM}}}\n",
    "base/two.yaml": "model_config: {max_input_words: 2}\n",
    "registry/acme--a.yaml": "model_config: {model_id: acme/a}\n",
}


def run(root: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main([*arguments, "--root", str(root)]) == 0
    return capsys.readouterr().out


def test_why_rebuilt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def why() -> str:
        return run(tmp_path, capsys, "why-rebuilt", "acme/a")

    write(tmp_path, FILES)
    assert why() == "acme--a has not been built yet\n"
    run(tmp_path, capsys, "compile")
    assert why() == "acme--a is up to date; it has been built once\n"
    write(tmp_path, {"base/defaults.yaml": FILES["base/defaults.yaml"] + "# a remark\n"})
    assert why() == "acme--a will be built again: since its last build,\n  base/defaults.yaml changed\n"
    run(tmp_path, capsys, "compile")
    assert why() == "acme--a is up to date; when it was last built,\n  base/defaults.yaml changed\n"
    write(tmp_path, {"registry/acme--a.yaml": "extends: two\n" + FILES["registry/acme--a.yaml"]})
    assert why().splitlines()[1:] == ["  registry/acme--a.yaml changed", "  base/two.yaml came"]


def test_a_derivation_is_the_hash_of_its_inputs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, FILES)
    before = run(tmp_path, capsys, "derivation", "acme--a").splitlines()
    assert before[-1] == "  -> not built yet"
    run(tmp_path, capsys, "compile")
    after = run(tmp_path, capsys, "derivation", "acme--a").splitlines()
    assert after[:-1] == before[:-1]
    files = [line.split()[0] for line in after[2:-1]]
    assert files == ["base/defaults.yaml", "registry/acme--a.yaml"], "the layers, the lowest first"
    output = after[-1].removeprefix("  -> ")
    assert f'"generated/models/acme--a.yaml": "{output}"' in (tmp_path / "generated/manifest.json").read_text()


@pytest.mark.parametrize("verb", ["derivation", "why-rebuilt"])
def test_a_model_that_is_not_there(verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, FILES)
    assert main([verb, "acme--b", "--root", str(tmp_path)]) == 1
    assert capsys.readouterr().err == "llm-serve: there is no model `acme--b`; did you mean `acme--a`?\n"
