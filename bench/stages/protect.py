"""`protect`: dataset in, protected dataset out, every file checked against its budget."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench import registry
from bench.budget import Budget
from bench.datasets import imageio
from bench.datasets.base import Dataset
from bench.metrics import quality
from bench.metrics.noise import NoiseStatistics
from bench.protect.manifest import MANIFEST
from bench.protect.output import SUFFIXES, Row
from bench.protect.pipeline import Source, protect_items
from bench.protect.protection import Protection
from bench.protect.sources import load_sample, photo_pixels, samples
from bench.protector import Protector
from bench.report.contact_sheet import write_contact_sheet
from bench.stages import StageContext

CONTACT_SHEET = "contact_sheet.png"
SHEET_IMAGES = 6
NOISE_IMAGES = 200
"""Images whose noise is analysed: a share of a tile, or a spectrum, is the same on a hundred as on thousands."""


def run(context: StageContext) -> dict[str, Any]:
    """Writes `dataset/` in the source's layout, `manifest.jsonl` with a line per file, and a contact sheet.

    Raises:
        BudgetViolation: A file differs from its source by more than its budget, after decoding.
        ContractViolation: The protector returned something else than an image of the same size.
    """
    identity = context.identity
    plugin = registry.load("protector", identity["protector"])
    protector: Protector = plugin(plugin.Options(**identity["options"]))
    source = context.dataset("data")
    state = None
    if protector.learns:
        state = protector.load(context.input_folder("fit") / "state", context.device)
    protection = Protection(
        protector,
        state,
        Budget(**identity["budget"]),
        identity["codec"],
        seed=identity["seed"] or 0,
        device=context.device,
    )
    target, working = context.folder / "dataset", context.folder / "writing"
    for folder in (target, working):
        shutil.rmtree(folder, ignore_errors=True)
    working.mkdir()
    suffix = SUFFIXES[protection.codec]
    total = len(source.ids("train"))
    rows: list[Row] = []
    ready: dict[str, tuple[Path, Row]] = {}
    outcomes = protect_items(
        protection,
        samples(source, working, suffix),
        Source(partial(load_sample, source), photo_pixels),
        workers=context.loader_workers,
    )

    def write_image(image_id: str, source_path: Path, target_path: Path) -> Path:
        while image_id not in ready:
            outcome = next(outcomes)
            if outcome.error is not None:
                raise outcome.error
            assert outcome.row is not None
            ready[outcome.item.name] = outcome.item.target, outcome.row
        made, row = ready.pop(image_id)
        written = target_path.with_suffix(suffix)
        os.replace(made, written)
        rows.append({**row, "file": str(written.relative_to(target))})
        context.report(len(rows), total, "images")
        return written

    with contextlib.closing(outcomes):
        source.write_copy(target, write_image)
    shutil.rmtree(working)
    write_contact_sheet(_pairs(source, target, rows), context.folder / CONTACT_SHEET)
    with open(context.folder / MANIFEST, "w", encoding="utf-8") as stream:
        for row in rows:
            stream.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
    return {"images": len(rows), **quality.summary(rows), "noise": _noise(source, target, rows)}


def _noise(source: Dataset, target: Path, rows: list[Row]) -> dict[str, Any]:
    """What the noise is like, on the first images; see `bench.metrics.noise`."""
    statistics = NoiseStatistics()
    for row in rows[:NOISE_IMAGES]:
        foreground = source.annotation("train", row["image"]).foreground
        clean = source.image("train", row["image"])
        statistics.update(clean, imageio.read_rgb(target / row["file"]), foreground)
    return statistics.summary()


def _pairs(source: Dataset, target: Path, rows: list[Row]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The first images beside their protected files."""
    for row in rows[:SHEET_IMAGES]:
        yield source.image("train", row["image"]), imageio.read_rgb(target / row["file"])
