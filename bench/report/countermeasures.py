"""The table of many countermeasures: a row for each, a column for each protection, and the worst case below."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.report.results import Column, Row
from bench.report.tables import MANY, MISSING, ONE_SEED, Table, percent, points, victim_key

SOME_CLEAN = "{:g} % of the images clean, with labels"


@dataclass(frozen=True)
class _Attempt:
    """What an attacker did, and what he got.

    Attributes:
        name: Of the countermeasure.
        needs: What he must have for it besides the protected images.
        labelled: Whether that includes clean images with labels.
        rows: What it brought him, by protection.
    """

    name: str
    needs: str
    labelled: bool
    rows: dict[str, Row]

    def score(self, label: str) -> float | None:
        row = self.rows.get(label)
        return row.score.value if row else None


def countermeasure_tables(columns: Sequence[Column]) -> list[Table]:
    """One table for each victim under more than `MANY` defenses.

    An attacker who has a part of the images clean is a row, too, if that was run: with the clean images alone, which
    is the same for all protections, and together with the protected rest.
    """
    groups: dict[tuple[str, ...], list[Column]] = {}
    for column in columns:
        groups.setdefault(victim_key(column), []).append(column)
    return [_table(group) for group in groups.values() if len(group) > MANY]


def _table(columns: list[Column]) -> Table:
    columns = sorted(columns, key=lambda column: column.defense_name != "none")
    labels = list(dict.fromkeys(r.label for c in columns for r in c.rows if not r.clean_ratio))
    attempts = [attempt for column in columns for attempt in _attempts(column, columns, labels)]
    plain = [row for column in columns if column.defense_name == "none" for row in column.rows]
    clean = next((row.score.value for row in plain if row.role == "clean"), None)
    rows = [(a.name, a.needs, *(points(a.score(label)) for label in labels)) for a in attempts]
    alone = [attempt for attempt in attempts if not attempt.labelled]
    if alone and len(alone) < len(attempts):
        rows += _worst_case("worst case without clean labels", alone, labels, clean)
    rows += _worst_case("worst case", attempts, labels, clean)
    if clean:
        rows.append(("oracle", "the true noise", *[points(clean)] * len(labels)))
    first = columns[0]
    title = f"Countermeasures: {first.victim} ({first.task}, init {first.init}) on {first.dataset}"
    notes = [
        f"{first.metric} on clean test images, in percent; worst case: for the data owner, the best score of the rows.",
        "drop that is left: of the clean victim's score without a countermeasure, what the best attacker is short of.",
        "oracle: who subtracts the true noise has the clean images back, since files are lossless: the upper bound.",
        "The best of many rows is in part the luckiest: its interval speaks for the test images, not for the choice.",
    ]
    counts = {len(row.seeds) for column in columns for row in column.rows if row.seeds}
    notes.append(ONE_SEED if counts == {1} else f"n={', '.join(map(str, sorted(counts)))} seeds.")
    header = ("countermeasure", "needs", *labels)
    return Table(f"{title}, profile {first.profile}", header, tuple(rows), tuple(notes))


def _attempts(column: Column, columns: list[Column], labels: list[str]) -> Iterator[_Attempt]:
    """One column's countermeasure, with all images protected and with each share of clean ones that was run."""
    mark = " (invalid)" if column.gate.state == "invalid" else ""
    name = _variant(column, columns)
    for ratio in sorted({row.clean_ratio for row in column.rows}):
        mine = [row for row in column.rows if row.clean_ratio == ratio]
        if not ratio:
            yield _Attempt(
                f"{name}{mark}", column.needs, column.needs_clean, {row.label: row for row in mine}
            )
            continue
        share = 100 * ratio
        needs = ", ".join([SOME_CLEAN.format(share), *([column.needs] if column.needs else [])])
        unprotected = next((row for row in mine if row.protector == "clean"), None)
        if unprotected:
            everywhere = {label: unprotected for label in labels}
            yield _Attempt(f"{name}, {share:g} % of the images alone{mark}", needs, True, everywhere)
        # A mixture is named after its protection; all clean is the row above, with nothing left out.
        by_protector = {row.protector: row for row in mine if row is not unprotected}
        if by_protector:
            yield _Attempt(f"{name}, {share:g} % clean{mark}", needs, True, by_protector)


def _worst_case(
    name: str, attempts: list[_Attempt], labels: list[str], clean: float | None
) -> list[tuple[str, ...]]:
    """The best score per protection, who got it, and what is left of the protection then."""
    scores, authors, left = [], [], []
    for label in labels:
        best = max(attempts, key=lambda attempt: attempt.score(label) or 0.0)
        value = best.score(label)
        scores.append(MISSING if value is None else percent(best.rows[label].score, 0))
        authors.append(MISSING if value is None else best.name)
        left.append(MISSING if value is None or not clean else f"{100 * (1 - value / clean):.0f} %")
    rows = [(name, "", *scores), ("by", "", *authors)]
    return [*rows, ("drop that is left", "", *left)] if clean else rows


def _variant(column: Column, columns: list[Column]) -> str:
    """The defense's name, with the options in which it differs from others of its name, and what it learned from."""
    mine = column.defense_options
    others = [c.defense_options for c in columns if c.defense_name == column.defense_name]
    told = [f"{k}={v}" for k, v in mine.items() if any(other.get(k) != v for other in others)]
    told += [f"learned from {column.learned_from}"] if column.learned_from else []
    return f"{column.defense_name} ({', '.join(told)})" if told else column.defense_name
