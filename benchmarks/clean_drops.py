"""What each defense costs on clean data, beside what it declares, from the records of a store.

    bench matrix specs/cpu/countermeasures.toml --store results/cpu/countermeasures
    python benchmarks/clean_drops.py results/cpu/countermeasures

In points (0 to 100) of the victim's score; negative is a gain. With one seed each number is that of one training,
and another one differs by a point or two: declarations (`Defense.clean_drop`) leave room for that. They are of the
victim that loses most.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import mean

from bench import registry
from bench.records import read_records
from bench.spec import plain_options
from bench.store import Store


def clean_drops(root: Path) -> dict[str, dict[str, float]]:
    """Points that each victim loses on clean data, by defense with its default options; means over the seeds."""
    scores: dict[str, dict[str, dict[int, float]]] = {}
    for record in read_records(Store(root)):
        cell = record["cell"]
        found = cell["defense"]
        defense = registry.load("defense", found["name"])
        if record["status"] != "done" or cell["protector"]["name"] != "none" or cell.get("clean_ratio"):
            continue
        if found["options"] == plain_options(defense.resolve_options(cell["profile"], {})):
            score = record["scores"]["val"][record["scores"]["primary"]]
            by_victim = scores.setdefault(found["name"], {})
            by_victim.setdefault(cell["victim"]["name"], {})[cell["seed"]] = 100 * score
    plain = scores.pop("none", {})
    drops: dict[str, dict[str, float]] = {}
    for name, by_victim in scores.items():
        for victim, by_seed in by_victim.items():
            pairs = [(plain[victim][s], score) for s, score in by_seed.items() if s in plain.get(victim, {})]
            if pairs:
                drops.setdefault(name, {})[victim] = mean(before - after for before, after in pairs)
    return drops


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("store", type=Path)
    drops = clean_drops(parser.parse_args().store)
    victims = sorted({victim for by_victim in drops.values() for victim in by_victim})
    print(f"{'':<22}" + "".join(f" {victim:>12}" for victim in victims) + "  declared")
    for name, by_victim in sorted(drops.items(), key=lambda pair: max(pair[1].values())):
        declared = registry.load("defense", name).clean_drop
        cells = "".join(
            f" {by_victim[victim]:12.1f}" if victim in by_victim else f" {'--':>12}" for victim in victims
        )
        mark = "   MORE THAN DECLARED" if declared is None or max(by_victim.values()) > declared else ""
        print(f"{name:<22}{cells}  {declared}{mark}")


if __name__ == "__main__":
    main()
