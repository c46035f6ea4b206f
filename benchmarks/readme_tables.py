"""Puts the tables of `results/cpu` into the README's results section again, under the titles that stand there.

    bench tables --store results/cpu
    python benchmarks/readme_tables.py

The sentences around the tables stay: read them again, they may no longer be true.
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
TABLE = re.compile(r"^(\*\*.*?\*\*)\n\n(?:\|.*\n)+(?:\n(?:\* .*\n)+)?", re.M)


def main() -> None:
    made = (ROOT / "results/cpu/tables/all.md").read_text(encoding="utf-8")
    tables = {match[1]: match[0] for match in TABLE.finditer(made)}
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    head, rest = text.split("<!-- results:start -->")
    shown, tail = rest.split("<!-- results:end -->")
    missing = [match[1] for match in TABLE.finditer(shown) if match[1] not in tables]
    if missing:
        raise SystemExit(f"no table has the title {missing[0]}")
    shown = TABLE.sub(lambda match: tables[match[1]], shown)
    readme.write_text(f"{head}<!-- results:start -->{shown}<!-- results:end -->{tail}", encoding="utf-8")


if __name__ == "__main__":
    main()
