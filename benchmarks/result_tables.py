"""Puts the tables of the stores below `results/cpu` into the pages that show them again, under the titles there.

    bench tables --store results/cpu
    bench tables --store results/cpu/another_processor
    bench tables --store results/cpu/countermeasures_photographs
    bench tables specs/cpu/table*.toml specs/cpu/figure*.toml --store results/cpu/specs
    bench tables specs/cpu/countermeasures.toml --store results/cpu/countermeasures
    python benchmarks/result_tables.py

A title without a table under it gets one. The sentences around the tables stay: read them again, they may no
longer be true.
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "docs/victims.md", "docs/defenses.md")
START, END = "<!-- results:start -->", "<!-- results:end -->"
TABLE = re.compile(r"^(\*\*.*? on .*?, profile .*?\*\*)\n(?:\n(?:\|.*\n)+(?:\n(?:\* .*\n)+)?)?", re.M)


def main() -> None:
    tables: dict[str, list[str]] = {}
    for path in sorted((ROOT / "results/cpu").rglob("tables/*.md")):
        for match in TABLE.finditer(path.read_text(encoding="utf-8")):
            tables.setdefault(match[1], []).append(match[0])
    for name in PAGES:
        page = ROOT / name
        head, rest = page.read_text(encoding="utf-8").split(START)
        shown, tail = rest.split(END)
        missing = [match[1] for match in TABLE.finditer(shown) if match[1] not in tables]
        if missing:
            raise SystemExit(f"{name}: no table has the title {missing[0]}")
        shown = TABLE.sub(lambda match: most_alike(tables[match[1]], match[0]), shown)
        page.write_text(f"{head}{START}{shown}{END}{tail}", encoding="utf-8")


def most_alike(tables: list[str], shown: str) -> str:
    """Of tables that have one title in several stores, the one that shares the most lines with what is shown."""
    lines = set(shown.splitlines())
    return max(tables, key=lambda table: len(lines & set(table.splitlines())))


if __name__ == "__main__":
    main()
