"""The numbers of README, victims and defenses pages come from records, and the README's example works."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.cli import guarded
from bench.plan import make_plan
from bench.report.write import write_all_tables, write_planned_tables
from bench.spec import read_matrices
from bench.store import Store
from bench.testing import check_protector

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results" / "cpu"
README = (ROOT / "README.md").read_text(encoding="utf-8")


STORES = ("", "specs", "another_processor", "countermeasures", "countermeasures_photographs")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """The tables that follow from each store's records: text by file name, by folder below results/cpu."""
    found: dict[str, dict[str, str]] = {}
    for name in STORES:
        store, output = RESULTS / name, tmp_path_factory.mktemp("tables")
        stems = sorted({path.stem for path in (store / "tables").iterdir()})
        if stems == ["all"]:  # of all records, whether or not the data that they are of is at hand
            write_all_tables(store, output)
        else:
            specs = [ROOT / "specs" / "cpu" / f"{stem}.toml" for stem in stems]
            plan = make_plan([matrix for spec in specs for matrix in read_matrices(spec)], Store(store))
            _, missing = write_planned_tables(plan, store, output)
            # Countermeasures are hours of work: their table is whole row by row, and grows.
            assert missing == [] or name == "countermeasures"
        found[name] = {path.name: path.read_text(encoding="utf-8") for path in output.iterdir()}
    return found


@pytest.mark.parametrize("name", STORES)
def test_the_tables_are_those_of_the_records(name: str, made: dict[str, dict[str, str]]) -> None:
    kept = (RESULTS / name / "tables").iterdir()
    assert made[name] == {path.name: path.read_text(encoding="utf-8") for path in kept}


@pytest.mark.parametrize("page", ["README.md", "docs/victims.md", "docs/defenses.md"])
def test_the_tables_of_a_page_are_those_of_the_records(page: str, made: dict[str, dict[str, str]]) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    shown = text.split("<!-- results:start -->")[1].split("<!-- results:end -->")[0]
    tables = re.findall(r"^\*\*.*?\*\*\n\n(?:\|.*\n)+", shown, re.M)
    assert tables
    for table in tables:
        assert any(table in file for files in made.values() for file in files.values())


def test_the_ten_line_protector_is_one(
    install_plugins: Callable[[str, dict[str, str]], None], capsys: pytest.CaptureFixture
) -> None:
    source = README.split("```python\n# stripes.py\n")[1].split("```")[0]
    assert len([line for line in source.splitlines() if line.strip()]) <= 10
    install_plugins(source, {"bench.protectors": "stripes = third_party:Stripes"})
    assert guarded(["ls", "protectors"]) == 0
    assert "horizontal stripes" in capsys.readouterr().out
    from third_party import Stripes

    check_protector(Stripes)


def test_every_bench_command_of_the_readme_exists(capsys: pytest.CaptureFixture) -> None:
    commands = set(re.findall(r"^(?:.*uv run )?bench ([a-z]+)", README, re.M))
    assert {"run", "ls", "matrix", "tables", "status", "doctor"} <= commands
    for command in commands:
        assert guarded([command, "--help"]) == 0
        usage = capsys.readouterr().out
        flags = set(re.findall(rf"bench {command}(?:[^`#\\\n]|\\\n)*", README))
        for flag in {f for text in flags for f in re.findall(r"--[a-z-]+", text)}:
            assert flag in usage, (command, flag)
