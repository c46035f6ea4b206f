"""Figures and their numbers: a victim's score on clean test images over its training (figure 4 of the paper)."""

from __future__ import annotations

import csv
import io
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.errors import EnvironmentFault
from bench.files import atomic_write
from bench.records import read_records
from bench.report.results import Column, columns
from bench.store import Store

HEADER = (
    "dataset",
    "victim",
    "task",
    "defense",
    "profile",
    "training_images",
    "iteration",
    "mean",
    "low",
    "high",
    "n",
)
SIZE = (6.4, 4.0)
"""Inches, without the legend."""
LEGEND_CHARACTERS, LEGEND_LINE = 84, 0.19
"""Width of the legend's lines, and their height in inches."""
STYLES = {"clean": "-", "control": "--", "protector": "-"}


def write_all_curves(root: Path, output: Path) -> list[Path]:
    """Draws a figure for each victim and defense of a store whose records hold curves.

    Each is written as PNG and PDF with its numbers as CSV beside it.

    Args:
        root: The store.
        output: Folder of the figures.

    Returns:
        The files.

    Raises:
        EnvironmentFault: No record has a curve of two points or more.
    """
    store = Store(root)
    records = [r for r in read_records(store) if r["status"] == "done" and len(r.get("curve", [])) > 1]
    if not records:
        raise EnvironmentFault(
            f"{root} holds no record with a curve: run with --curve N, or name the store with --store"
        )
    paths = []
    for column in columns(store, records):
        lines = curve_rows(column)
        name = "_".join((column.victim, column.task, column.dataset, column.defense, column.profile))
        stem = output / "".join(c if c.isalnum() or c in "_-." else "-" for c in name)
        for suffix, content in (("csv", _csv(column, lines)), *_drawn(column, lines)):
            paths.append(stem.with_name(f"{stem.name}.{suffix}"))
            atomic_write(paths[-1], content)
    return paths


def curve_rows(column: Column) -> list[dict[str, Any]]:
    """The points of a column's curves: mean, least and greatest score over the seeds.

    Returns:
        Rows of `training_images`, `role`, `iteration`, `mean`, `low`, `high` (fractions) and `n` (seeds).
    """
    rows = []
    for row in column.rows:
        at: dict[int, list[float]] = {}
        for curve in row.curves:
            for point in curve:
                if point.get(column.metric) is not None:
                    at.setdefault(point["iteration"], []).append(point[column.metric])
        for iteration, values in sorted(at.items()):
            rows.append(
                {
                    "training_images": row.label,
                    "role": row.role,
                    "iteration": iteration,
                    "mean": sum(values) / len(values),
                    "low": min(values),
                    "high": max(values),
                    "n": len(values),
                }
            )
    return rows


def _csv(column: Column, rows: Sequence[dict[str, Any]]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(HEADER)
    head = (column.dataset, column.victim, column.task, column.defense, column.profile)
    for row in rows:
        writer.writerow([*head, *(row[name] for name in HEADER[len(head) :])])
    return stream.getvalue()


def _drawn(column: Column, rows: Sequence[dict[str, Any]]) -> list[tuple[str, bytes]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    labels = {
        label: [row for row in rows if row["training_images"] == label]
        for label in dict.fromkeys(row["training_images"] for row in rows)
    }
    names = {
        label: textwrap.fill(f"{label}, n={max(row['n'] for row in mine)}", LEGEND_CHARACTERS)
        for label, mine in labels.items()
    }
    legend = LEGEND_LINE * sum(name.count("\n") + 1 for name in names.values())
    figure = Figure(figsize=(SIZE[0], SIZE[1] + legend), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for label, mine in labels.items():
        iterations = [row["iteration"] for row in mine]
        (line,) = axes.plot(
            iterations,
            [100 * row["mean"] for row in mine],
            STYLES[mine[0]["role"]],
            marker=".",
            label=names[label],
        )
        axes.fill_between(
            iterations,
            [100 * row["low"] for row in mine],
            [100 * row["high"] for row in mine],
            color=line.get_color(),
            alpha=0.15,
            linewidth=0,
        )
    axes.set_xlabel("training iterations")
    axes.set_ylabel(f"{column.metric} on clean test images, %")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.set_title(f"{column.victim} on {column.dataset}, defense {column.defense}", fontsize="medium")
    # Below the axes: variants of a protector have labels that are longer than the axes are wide.
    figure.legend(loc="outside lower left", fontsize="small", frameon=False)
    drawn = []
    for suffix, metadata in (("png", {"Software": None}), ("pdf", {"CreationDate": None})):
        stream = io.BytesIO()
        figure.savefig(stream, format=suffix, dpi=160, metadata=metadata)
        drawn.append((suffix, stream.getvalue()))
    return drawn
