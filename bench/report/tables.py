"""Tables as data: what stands in which row, before it is drawn for a terminal, Markdown, CSV or LaTeX."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bench.report.results import Column, Row
from bench.report.statistics import Estimate

MISSING = "--"
MANY = 5
"""With more defenses than this, they are the rows of tables of their own, and the summary has the best alone."""
ONE_SEED = "n=1: one seed; the intervals speak for the test images, not for another training."


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        title: What it shows.
        header: Column names.
        rows: Cells as text.
        notes: Lines below.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]


def detail_table(column: Column) -> Table:
    """One victim under one defense: every row with its drop, quality and cost. Scores in percent."""
    header = (
        "training images",
        f"{column.metric} on clean test images",
        "drop",
        "drop of clean",
        "beyond random noise",
        f"{column.metric} on own training images",
        "PSNR dB",
        "SSIM",
        "L-inf in/out",
        "n",
        "time",
    )
    clean = next((r.score.value for r in column.rows if r.role == "clean"), None)
    rows = tuple(_detail_row(row, clean) for row in column.rows)
    title = (
        f"{column.victim} ({column.task}, init {column.init}) on {column.dataset}, defense {column.defense}"
    )
    notes = (*_notes(column), *notes_on_images([column]))
    return Table(f"{title}, profile {column.profile}", header, rows, notes)


def summary_table(columns: list[Column]) -> Table:
    """All victims and defenses side by side; with several defenses, the best score any of them recovered.

    Where they are many (`under_many`), it shows the victims without a defense and with the best alone.
    """
    labels = list(dict.fromkeys(row.label for column in columns for row in column.rows))
    header = ["training images"]
    several = len({column.dataset for column in columns}) > 1
    few = _few(columns)
    cells: dict[str, list[str]] = {label: [] for label in labels}
    for mine in _by_victim(columns):
        place = f" on {mine[0].dataset}" if several else ""
        start = "" if mine[0].init == "scratch" else f" from {mine[0].init}"
        who = f"{mine[0].victim}{start}{place}"
        for column in (c for c in mine if c in few):
            mark = " (invalid)" if column.gate.state == "invalid" else ""
            header.append(f"{who}, {column.defense}, {column.metric}{mark}")
            by_label = {row.label: row for row in column.rows}
            for label in labels:
                row = by_label.get(label)
                cells[label].append(percent(row.score, len(row.seeds)) if row else MISSING)
        if len(mine) > 1:
            header.append(f"{who} worst case")
            for label in labels:
                cells[label].append(_worst_case(mine, label))
    notes = sorted({note for column in columns for note in _notes(column)})
    notes += notes_on_images(columns)
    if under_many(columns):
        notes.insert(0, "worst case: for the data owner, the best score of all countermeasures.")
    return Table("Summary", tuple(header), tuple((k, *v) for k, v in cells.items()), tuple(notes))


def under_many(columns: list[Column]) -> list[list[Column]]:
    """The columns of each victim whose defenses are the rows of tables of their own; most often there is none.

    Where one victim is under more than `MANY` defenses, these are all victims under several: they stand in the same
    tables, however many were run of each, and can be compared.
    """
    groups = _by_victim(columns)
    if max(map(len, groups), default=0) <= MANY:
        return []
    return [group for group in groups if len(group) > 1]


def _few(columns: list[Column]) -> list[Column]:
    """Those that fit side by side: of a victim with tables of its own, the one without a defense."""
    elsewhere = {_victim_key(group[0]) for group in under_many(columns)}
    return [c for c in columns if _victim_key(c) not in elsewhere or c.defense_name == "none"]


def _by_victim(columns: list[Column]) -> list[list[Column]]:
    groups: dict[tuple[str, ...], list[Column]] = {}
    for column in columns:
        groups.setdefault(_victim_key(column), []).append(column)
    return list(groups.values())


def notes_on_images(columns: list[Column]) -> list[str]:
    """Says of which protections the victims did not all get the same images, though all were asked for the same.

    A generator that is trained anew on another kind of processor, or with other libraries, ends with other weights, so
    cells that ran on several machines may not have met the same noise. New random noise is the same everywhere.
    """
    measured: dict[str, dict[str, set[tuple[float | None, float | None]]]] = {}
    for row in (row for column in columns for row in column.rows):
        for key, values in row.protected.items():
            measured.setdefault(row.protector, {}).setdefault(key, set()).add(values)
    notes = []
    for protector, by_key in measured.items():
        differing = [values for values in by_key.values() if len(values) > 1]
        if not differing:
            continue
        most = max(map(len, differing))
        psnrs = [[value for value, _ in values if value is not None] for values in differing]
        spans = [f"{min(psnr):.4f} to {max(psnr):.4f} dB" for psnr in sorted(map(sorted, psnrs)) if psnr]
        span = f" (PSNR {', '.join(dict.fromkeys(spans))})" if spans else ""
        notes.append(
            f"{protector}: the cells did not all train on the same images. The protector was trained {most} times with "
            f"one seed and came out differently, as it does on another kind of processor{span}."
        )
    return notes


def mixing_table(column: Column) -> Table | None:
    """An attacker who has a part of the images clean: that part alone, and together with the protected rest.

    One row for each share of clean images, as in tables 5 and 9 of UnSeg; None where nothing was mixed.
    """
    ratios = sorted({row.clean_ratio for row in column.rows} - {0.0})
    if not ratios:
        return None
    clean = next((row for row in column.rows if row.role == "clean"), None)
    roles = {row.protector: row.role for row in column.rows if row.protector != "clean"}
    protectors = sorted(roles, key=lambda protector: roles[protector])  # controls first, as everywhere
    header = ("clean images", "alone", *(f"with the rest: {protector}" for protector in protectors))
    rows = []
    for ratio in (0.0, *ratios):
        found = {row.protector: row for row in column.rows if row.clean_ratio == ratio and row is not clean}
        alone = found.get("clean")
        cells = [percent(alone.score, 0) if alone else MISSING]
        for protector in protectors:
            row = found.get(protector)
            text = percent(row.score, 0) if row else MISSING
            if row and row.over_clean_only:
                text += f" ({_signed(row.over_clean_only)})"
            cells.append(text)
        rows.append((f"{100 * ratio:g} %", *cells))
    if clean:
        rows.append(("100 %", percent(clean.score, 0), *[MISSING] * len(protectors)))
    title = f"Clean images mixed in: {column.victim} ({column.task}, init {column.init}) on {column.dataset}"
    notes = (
        f"{column.metric} on clean test images; in brackets the difference to the clean images alone, paired by seed "
        "and image.",
        *_notes(column),
        *notes_on_images([column]),
    )
    return Table(f"{title}, defense {column.defense}, profile {column.profile}", header, tuple(rows), notes)


def noise_tables(columns: list[Column]) -> list[Table]:
    """What each protection's noise is like, and how much of its effect its budget alone explains.

    One table for each dataset on which noise was measured.
    """
    groups: dict[tuple[str, str, str], list[Column]] = {}
    for column in columns:
        groups.setdefault((column.dataset, column.profile, column.codec), []).append(column)
    tables = []
    for (dataset, profile, _), mine in groups.items():
        rows = {
            r.label: r for c in mine for r in c.rows if r.noise and r.noise["spectrum"] and not r.clean_ratio
        }
        if not rows:
            continue
        header = ["training images", "mean change in/out, levels", "low", "middle", "high frequencies"]
        header += ["one colour", "one tile"]
        shown = _few(mine)
        header += [f"explained by the budget, {c.victim}, {c.defense}" for c in shown]
        body = []
        for label, row in rows.items():
            explained = [_explained(next((r for r in c.rows if r.label == label), None)) for c in shown]
            body.append((label, *_noise_cells(row.noise or {}), *explained))
        notes = (
            "frequencies: power density beside that of white noise, which is 1; low is below 1/8 cycle per "
            "pixel, high above 5/16.",
            "one colour, one tile: share of the energy inside the mask that is the same colour, or the same "
            "tile of at most 8x8 pixels, in all images.",
            "explained by the budget: the drop under new random noise of the same budget, as a share of this drop.",
        )
        tables.append(Table(f"Noise on {dataset}, profile {profile}", tuple(header), tuple(body), notes))
    return tables


def _noise_cells(noise: dict[str, Any]) -> tuple[str, ...]:
    means = [noise["mean_abs_inside"], noise["mean_abs_outside"]]
    bands = noise["spectrum"]
    parts = (bands[:2], bands[2:5], bands[5:])
    shares = {int(period): share or 0.0 for period, share in noise["tile_share"].items()}
    return (
        "/".join(MISSING if mean is None else f"{mean:.1f}" for mean in means),
        *(f"{sum(part) / len(part):.2f}" for part in parts),
        f"{100 * shares[1]:.0f} %",
        f"{100 * max(shares.values()):.0f} %",
    )


def _explained(row: Row | None) -> str:
    """The control's drop as a share of the row's; nothing where the row's own drop may be chance."""
    if row is None or row.beyond is None or row.drop is None:
        return MISSING
    drop, beyond = row.drop, row.beyond
    if drop.value is None or beyond.value is None or drop.high is None or drop.high >= 0:
        return MISSING
    return f"{100 * (drop.value - beyond.value) / drop.value:.0f} %"


def percent(estimate: Estimate, seeds: int) -> str:
    """`18.5 [17.0, 20.1]`; with one seed the interval speaks for the images only, which `n=1` marks."""
    if estimate.value is None:
        return MISSING
    text = f"{100 * estimate.value:.1f}"
    if estimate.low is not None and estimate.high is not None:
        text += f" [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"
    return text + (" n=1" if seeds == 1 else "")


def _signed(estimate: Estimate) -> str:
    """`+3.1 [1.0, 5.2]`."""
    text = percent(estimate, 0)
    return text if text.startswith("-") else f"+{text}"


def _detail_row(row: Row, clean: float | None) -> tuple[str, ...]:
    drop = row.drop
    share = MISSING
    if drop and drop.value is not None and clean:
        share = f"{-100 * drop.value / clean:.0f} %"
    seeds = str(len(row.seeds))
    if row.missing:
        seeds += f"/{len(row.seeds) + len(row.missing)}"
    return (
        row.label,
        percent(row.score, 0),
        percent(drop, 0) if drop else MISSING,
        share,
        percent(row.beyond, 0) if row.beyond else MISSING,
        MISSING if row.own_train is None else f"{100 * row.own_train:.1f}",
        MISSING if row.psnr is None else f"{row.psnr:.1f}",
        MISSING if row.ssim is None else f"{row.ssim:.3f}",
        MISSING if row.linf is None else f"{row.linf[0]}/{row.linf[1]}",
        seeds,
        f"{row.seconds:.0f} s",
    )


def _notes(column: Column) -> list[str]:
    name = f"{column.victim} on {column.dataset}, defense {column.defense}"
    verdict = {
        "valid": "the clean control reached its reference band",
        "unreferenced": "no reference band for this setting; the clean control learned",
        "invalid": "INVALID, nothing can be concluded",
    }[column.gate.state]
    if not any(row.seeds for row in column.rows):
        reasons = dict.fromkeys(reason for row in column.rows for reason in row.missing.values())
        return [f"{name}: no result ({'; '.join(reasons)})."]
    notes = [f"{name}: {verdict} ({column.gate.reason})."]
    counts = {len(row.seeds) for row in column.rows}
    if counts == {1}:
        notes.append(ONE_SEED)
    for row in column.rows:
        notes += [f"{name}, {row.label}, seed {seed}: {why}" for seed, why in sorted(row.missing.items())]
    return notes


def _worst_case(columns: list[Column], label: str) -> str:
    row, column = _best(columns, label)
    return f"{points(row.score.value)} ({column.defense})" if row and column else MISSING


def _best(columns: list[Column], label: str) -> tuple[Row, Column] | tuple[None, None]:
    """The row with this label that has the best score under any defense, and that defense's column."""
    found = [(r, c) for c in columns for r in c.rows if r.label == label and r.score.value is not None]
    return max(found, key=lambda pair: pair[0].score.value or 0.0, default=(None, None))


def points(value: float | None) -> str:
    """`18.5`."""
    return MISSING if value is None else f"{100 * value:.1f}"


def _victim_key(column: Column) -> tuple[str, ...]:
    """What the columns of one victim under several defenses have in common."""
    return (column.victim, column.task, column.init, column.dataset, column.profile, column.codec)
