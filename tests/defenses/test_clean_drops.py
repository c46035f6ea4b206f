"""What each countermeasure costs on clean data is what it declares, by the records that this repository holds."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

from bench import registry
from bench.countermeasures import LISTS

ROOT = Path(__file__).parents[2]
ROOM = 3.0
"""Points by which a declaration may be larger than what was measured: one seed's measurement is good to a few."""
SCRIPT = runpy.run_path(str(ROOT / "benchmarks" / "clean_drops.py"))
MEASURED: dict[str, dict[str, float]] = SCRIPT["clean_drops"](ROOT / "results" / "cpu" / "countermeasures")


def test_every_countermeasure_was_measured() -> None:
    assert set(MEASURED) == set(LISTS["all"]) - {"none"}
    assert all(set(drops) == {"unetplusplus", "deeplabv3"} for drops in MEASURED.values())


@pytest.mark.parametrize("name", sorted(MEASURED))
def test_a_countermeasure_costs_what_it_declares(name: str) -> None:
    declared = registry.load("defense", name).clean_drop
    measured = max(MEASURED[name].values())
    assert declared is not None
    assert measured <= declared <= max(measured, 0.0) + ROOM


def test_the_page_of_the_defenses_has_what_was_measured() -> None:
    page = (ROOT / "docs" / "defenses.md").read_text(encoding="utf-8")
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in page.splitlines()
        if line.startswith("| `")
    ]
    told = {row[0].strip("`"): row for row in rows}
    assert set(told) == set(MEASURED)
    plain = float(re.findall(r"([\d.]+) without\)", page)[0])
    for name, row in told.items():
        clean = next(cell for cell in row[1:] if re.fullmatch(r"\d\d\.\d(?: / \d\d\.\d)?", cell))
        drop = MEASURED[name]["unetplusplus"]
        assert plain - float(clean.split(" / ")[0]) == pytest.approx(drop, abs=0.11), name
