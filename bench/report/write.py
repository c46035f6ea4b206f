"""Writes tables to files, and says each row as it comes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.errors import EnvironmentFault
from bench.files import atomic_write
from bench.plan import Plan
from bench.progress import Progress, duration
from bench.records import read_records
from bench.report.countermeasures import countermeasure_tables, worst_case_table
from bench.report.render import to_csv, to_latex, to_markdown, to_text
from bench.report.results import Column, columns, place_order
from bench.report.tables import (
    Table,
    detail_table,
    mixing_table,
    noise_tables,
    summary_table,
)
from bench.run import RunResult
from bench.store import Store


def announce(record: dict[str, Any], progress: Progress) -> None:
    """Says one row of the table as soon as its cell is there."""
    cell = record["cell"]
    head = f"=> {record['label']}: {cell['victim']['name']} {cell['victim']['task']}"
    if cell["defense"]["name"] != "none":
        head += f", defense {cell['defense']['name']}"
    head += f", seed {cell['seed']}"
    if record["status"] != "done":
        # The status of a cell that is skipped says why already.
        why = "" if record["status"].endswith(record["reason"]) else f": {record['reason']}"
        progress.message(f"{head}: {record['status']}{why}")
        return
    name = record["scores"]["primary"]
    val, own = record["scores"]["val"][name], record["scores"]["own_train"][name]
    seconds = sum(cost["seconds"] for cost in record["cost"].values())
    progress.message(
        f"{head}: {name} {100 * val:.1f} on clean test images, {100 * own:.1f} on its own training images "
        f"({duration(seconds)} of work)"
    )


def build_tables(found: list[Column]) -> list[Table]:
    """A summary, the worst cases, many countermeasures, what was mixed with clean images, the details, the noise."""
    mixtures = [table for column in found if (table := mixing_table(column))]
    details = [detail_table(column) for column in found if any(row.seeds for row in column.rows)]
    summary = [summary_table(found)] if len(found) > 1 else []
    worst = [table] if (table := worst_case_table(found)) else []
    return [*summary, *worst, *countermeasure_tables(found), *mixtures, *details, *noise_tables(found)]


def write_run_tables(result: RunResult, root: Path) -> tuple[str, list[Path]]:
    """Writes the tables of a run under `tables/NAME.*` and returns the text for the terminal."""
    store, texts, paths = Store(root), [], []
    for name, keys in result.plan.tables.items():
        found = columns(store, [record for record in result.records if record["key"] in keys])
        paths += write_tables(found, root / "tables", name)
        texts += [f"== {name} =="] if len(result.plan.tables) > 1 else []
        texts += [to_text(table) for table in build_tables(found)]
    return "\n\n".join(texts), paths


def write_planned_tables(plan: Plan, root: Path, output: Path) -> tuple[list[Path], list[str]]:
    """Regenerates the tables of a plan from the records of a store; nothing is run.

    Returns:
        The files, and a line for each table whose cells have no record, in whole or in part.

    Raises:
        EnvironmentFault: The store holds a record of none of them.
    """
    store = Store(root)
    paths, missing = [], []
    for name, keys in plan.tables.items():
        records = read_records(store, list(keys))
        if records:
            paths += write_tables(columns(store, records), output, name)
        if len(records) < len(keys):
            missing.append(
                f"{name}: {len(keys) - len(records)} of {len(keys)} cells have no record in {root}"
            )
    if not paths:
        raise EnvironmentFault(
            f"{root} holds no record of {', '.join(plan.tables)}: run `bench matrix` first"
        )
    return paths, missing


def write_all_tables(root: Path, output: Path) -> list[Path]:
    """Regenerates the tables of all records in a store.

    Raises:
        EnvironmentFault: The store holds no record.
    """
    store = Store(root)
    records = read_records(store)
    if not records:
        raise EnvironmentFault(
            f"{root} holds no records: run `bench run` first, or name the store with --store"
        )
    return write_tables(sorted(columns(store, records), key=place_order), output, "all")


def write_tables(found: list[Column], folder: Path, name: str) -> list[Path]:
    """Writes `name.md`, `name.tex` and `name.csv`."""
    tables = build_tables(found)
    texts = {
        "md": "\n".join(to_markdown(table) for table in tables),
        "tex": "\n".join(to_latex(table) for table in tables),
        "csv": to_csv(found),
    }
    paths = []
    for suffix, text in texts.items():
        paths.append(folder / f"{name}.{suffix}")
        atomic_write(paths[-1], text)
    return paths
