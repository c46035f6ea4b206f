"""The table of many countermeasures: a row for each, a column for each protection, and the worst case below."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bench.report.results import Column, Row, defense_order
from bench.report.tables import (
    MISSING,
    ONE_SEED,
    Table,
    notes_on_images,
    percent,
    points,
    under_many,
)

SOME_CLEAN = "{:g} % of the images clean, with labels"
WITHOUT_LABELS, WORST_CASE = "worst case without clean labels", "worst case"
LEFT = "drop that is left: of the clean victim's score without a countermeasure, what the best attacker is short of."


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


def countermeasure_tables(columns: list[Column]) -> list[Table]:
    """One table for each victim, where their defenses are many (`under_many`).

    An attacker who has a part of the images clean is a row, too, if that was run: with the clean images alone, which
    is the same for all protections, and together with the protected rest.
    """
    return [_table(trials) for trials in _Trials.of_all(columns)]


def worst_case_table(columns: list[Column]) -> Table | None:
    """What the best attacker leaves of each protection, of all victims in one table; None where defenses are few."""
    trials = _Trials.of_all(columns)
    if not trials:
        return None
    rows = []
    for trial in trials:
        for label in trial.labels:
            plain = trial.plain.get(label)
            cells = [cell for kind in trial.kinds(both=True) for cell in trial.worst_case(kind, label)]
            rows.append((trial.victim, label, percent(plain.score, 0) if plain else MISSING, *cells))
    of = [cell for name in (WITHOUT_LABELS, WORST_CASE) for cell in (name, "by", "drop that is left")]
    notes = [
        "The worst case is the data owner's: the best score that any of the countermeasures brought.",
        LEFT,
    ]
    if len({number for trial in trials for number in trial.attackers}) > 1:
        numbers = ", ".join(f"{' to '.join(map(str, trial.attackers))} by {trial.victim}" for trial in trials)
        notes.append(
            f"Not all met as many countermeasures, and the best of more can only be better: {numbers}."
        )
    notes += notes_on_images([column for trial in trials for column in trial.columns])
    first = [trial.columns[0] for trial in trials]
    where, profiles = (
        " and ".join(dict.fromkeys(values))
        for values in ([column.dataset for column in first], [column.profile for column in first])
    )
    title = f"Worst cases on {where}, profile {profiles}"
    return Table(title, ("victim", "training images", "none", *of), tuple(rows), tuple(notes))


@dataclass(frozen=True)
class _Trials:
    """All that was tried with one victim.

    Attributes:
        columns: Of the victim, in the order of `defense_order`.
        labels: The protections.
        attempts: The countermeasures.
        plain: The results without a countermeasure, by protection.
        clean: The clean victim's score without a countermeasure.
    """

    columns: list[Column]
    labels: list[str]
    attempts: list[_Attempt]
    plain: dict[str, Row]
    clean: float | None

    @classmethod
    def of_all(cls, columns: list[Column]) -> list[_Trials]:
        """Those of each victim that is under many; a countermeasure has the same name with all of them."""
        groups = under_many(columns)
        everyone = [column for group in groups for column in group]
        return [cls._of(group, everyone) for group in groups]

    @classmethod
    def _of(cls, columns: list[Column], everyone: list[Column]) -> _Trials:
        columns = sorted(columns, key=defense_order)
        labels = list(dict.fromkeys(r.label for c in columns for r in c.rows if not r.clean_ratio))
        attempts = [attempt for column in columns for attempt in _attempts(column, everyone, labels)]
        without = [row for column in columns if column.defense_name == "none" for row in column.rows]
        plain = {row.label: row for row in without if not row.clean_ratio}
        clean = next((row.score.value for row in without if row.role == "clean"), None)
        return cls(columns, labels, attempts, plain, clean)

    @property
    def victim(self) -> str:
        first = self.columns[0]
        return f"{first.victim} ({first.task}, init {first.init}) on {first.dataset}"

    @property
    def attackers(self) -> list[int]:
        """How many were tried on the protections that met fewest and most: one number where that is the same.

        Nobody is one who does nothing, and unprotected images are no protection.
        """
        clean = {row.label for column in self.columns for row in column.rows if row.role == "clean"}
        met = [
            sum(attempt.score(label) is not None for attempt in self.attempts) - (label in self.plain)
            for label in self.labels
            if label not in clean or len(self.labels) == 1
        ]
        return sorted({min(met), max(met)})

    def kinds(self, both: bool = False) -> list[str]:
        """The worst cases that there are: one, if all attempts, or none, need clean labels; or `both` all the same."""
        labelled = {attempt.labelled for attempt in self.attempts}
        return [WITHOUT_LABELS, WORST_CASE] if both or len(labelled) > 1 else [WORST_CASE]

    def worst_case(self, kind: str, label: str) -> tuple[str, str, str]:
        """The best score on a protection, who got it, and what is left of the protection then."""
        attempts = [a for a in self.attempts if kind == WORST_CASE or not a.labelled]
        scores = [(score, a) for a in attempts if (score := a.score(label)) is not None]
        if not scores:
            return MISSING, MISSING, MISSING
        value, best = max(scores, key=lambda pair: pair[0])
        left = f"{100 * (1 - value / self.clean):.0f} %" if self.clean else MISSING
        return percent(best.rows[label].score, 0), best.name, left


def _table(trials: _Trials) -> Table:
    labels = trials.labels
    rows = [(a.name, a.needs, *(points(a.score(label)) for label in labels)) for a in trials.attempts]
    for kind in trials.kinds():
        scores, authors, left = zip(*(trials.worst_case(kind, label) for label in labels), strict=True)
        rows += [(kind, "", *scores), ("by", "", *authors)]
        if trials.clean:
            rows.append(("drop that is left", "", *left))
    if trials.clean:
        rows.append(("oracle", "the true noise", *[points(trials.clean)] * len(labels)))
    columns = trials.columns
    first = columns[0]
    notes = [
        f"{first.metric} on clean test images, in percent; worst case: for the data owner, the best score of the rows.",
        LEFT,
        "oracle: who subtracts the true noise has the clean images back, since files are lossless: the upper bound.",
        "The best of many rows is in part the luckiest: its interval speaks for the test images, not for the choice.",
    ]
    counts = {len(row.seeds) for column in columns for row in column.rows if row.seeds}
    notes.append(ONE_SEED if counts == {1} else f"n={', '.join(map(str, sorted(counts)))} seeds.")
    notes += notes_on_images(columns)
    header = ("countermeasure", "needs", *labels)
    title = f"Countermeasures: {trials.victim}, profile {first.profile}"
    return Table(title, header, tuple(rows), tuple(notes))


def _attempts(column: Column, everyone: list[Column], labels: list[str]) -> Iterator[_Attempt]:
    """One column's countermeasure, with all images protected and with each share of clean ones that was run."""
    mark = " (invalid)" if column.gate.state == "invalid" else ""
    name = _variant(column, everyone)
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


def _variant(column: Column, everyone: list[Column]) -> str:
    """The defense's name, with the options in which it differs from others of its name, and what it learned from."""
    mine = column.defense_options
    others = [c.defense_options for c in everyone if c.defense_name == column.defense_name]
    told = [f"{k}={v}" for k, v in mine.items() if any(other.get(k) != v for other in others)]
    told += [f"learned from {column.learned_from}"] if column.learned_from else []
    return f"{column.defense_name} ({', '.join(told)})" if told else column.defense_name
