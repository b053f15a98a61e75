"""The docs name what there is."""

import re
from pathlib import Path

import pytest
import yaml

from runtime.engines import ENGINES

REPO = Path(__file__).resolve().parents[2]
PAGES = [REPO / "README.md", *sorted((REPO / "docs").rglob("*.md"))]


def test_every_shipped_model_is_in_the_catalogue() -> None:
    row = r"^\| `(.+?)` \| (\w+) \| .+ \| (\d+) \| (\d+) \|$"
    rows = re.findall(row, (REPO / "docs/catalogue.md").read_text(), re.MULTILINE)
    shipped = []
    for path in (REPO / "generated/models").glob("*.yaml"):
        arguments = yaml.safe_load(path.read_text())["applications"][0]["args"]
        scaling = arguments["scaling_config"]
        gpus = int(scaling["num_workers"] * scaling["num_gpus_per_worker"])
        lines = len((REPO / arguments["declared_in"]).read_text().splitlines())
        engine = arguments["initialization"]["initializer"]["type"]
        shipped.append((arguments["model_id"], engine, str(gpus), str(lines)))
    assert sorted(rows) == sorted(shipped)


def test_the_resource_table_knows_every_engine() -> None:
    serving = (REPO / "docs/serving.md").read_text()
    assert [engine.name for engine in ENGINES if engine.name not in serving] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_paths_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (page.parent / link).exists(), link
    for path in re.findall(r"`((?:runtime|compiler|tests|base)/[\w/.-]+)`", text):
        assert (REPO / path).exists() or (REPO / f"{path}.py").exists(), path


def test_the_readmes_example_is_the_shipped_file() -> None:
    example = re.search(
        r"```yaml\n# (registry/\S+): the whole file\n(.*?)```", (REPO / "README.md").read_text(), re.DOTALL
    )
    assert example is not None
    assert (REPO / example[1]).read_text() == example[2]
