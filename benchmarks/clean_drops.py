"""What each defense costs on clean data, beside what it declares, from the records of a store.

    bench matrix specs/cpu/countermeasures.toml --store results/cpu/countermeasures
    python benchmarks/clean_drops.py results/cpu/countermeasures

In points (0 to 100) of the victim's score; negative is a gain. With one seed each number is that of one training,
and another one differs by a point or two: declarations (`Defense.clean_drop`) leave room for that. They are of UNet++;
`--victim` says what another one loses, which may be more.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from statistics import mean

from bench import registry
from bench.records import read_records
from bench.spec import plain_options
from bench.store import Store


def clean_drops(root: Path, victim: str = "unetplusplus") -> dict[str, float]:
    """Points that a victim loses on clean data, by defense with its default options; means over the seeds."""
    scores: dict[str, dict[int, float]] = {}
    for record in read_records(Store(root)):
        cell = record["cell"]
        found, ours = cell["defense"], (cell["protector"]["name"], cell["victim"]["name"])
        defense = registry.load("defense", found["name"])
        if record["status"] != "done" or ours != ("none", victim) or cell.get("clean_ratio"):
            continue
        if found["options"] == plain_options(defense.resolve_options(cell["profile"], {})):
            score = record["scores"]["val"][record["scores"]["primary"]]
            scores.setdefault(found["name"], {})[cell["seed"]] = 100 * score
    plain = scores.pop("none")
    return {
        name: mean(plain[seed] - score for seed, score in by_seed.items() if seed in plain)
        for name, by_seed in scores.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("store", type=Path)
    parser.add_argument("--victim", default="unetplusplus")
    arguments = parser.parse_args()
    for name, drop in sorted(
        clean_drops(arguments.store, arguments.victim).items(), key=lambda pair: pair[1]
    ):
        declared = registry.load("defense", name).clean_drop
        mark = "   MORE THAN DECLARED" if declared is None or drop > declared else ""
        print(f"{name:<22} {drop:6.1f}  declared {declared}{mark}")


if __name__ == "__main__":
    main()
