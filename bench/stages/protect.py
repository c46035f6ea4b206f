"""`protect`: dataset in, protected dataset out, every file checked against its budget."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from bench import registry
from bench.budget import Budget, excess
from bench.datasets import imageio
from bench.errors import BudgetViolation, ContractViolation
from bench.metrics import quality
from bench.protector import Protector
from bench.report.contact_sheet import write_contact_sheet
from bench.seeds import derive_seed, generator
from bench.stages import StageContext

MANIFEST = "manifest.jsonl"
CONTACT_SHEET = "contact_sheet.png"
SHEET_IMAGES = 6


def run(context: StageContext) -> dict[str, Any]:
    """Writes `dataset/` in the source's layout, `manifest.jsonl` with a line per file, and a contact sheet.

    Raises:
        BudgetViolation: A file differs from its source by more than its budget, after decoding.
        ContractViolation: The protector returned something else than an image of the same size.
    """
    identity = context.identity
    plugin = registry.load("protector", identity["protector"])
    protector: Protector = plugin(plugin.Options(**identity["options"]))
    budget = Budget(**identity["budget"])
    source = context.dataset("data")
    state = None
    if protector.learns:
        state = protector.load(context.input_folder("fit") / "state", context.device)
    target = context.folder / "dataset"
    shutil.rmtree(target, ignore_errors=True)
    total = len(source.ids("train"))
    rows: list[dict[str, Any]] = []
    sheet: list[tuple[np.ndarray, np.ndarray]] = []

    def write_image(image_id: str, source_path: Path, target_path: Path) -> Path:
        image = source.image("train", image_id)
        annotation = source.annotation("train", image_id)
        before = image.copy()
        rng = generator(identity["seed"] or 0, "protect", plugin.name, image_id)
        run_seed = derive_seed(identity["seed"] or 0, "protect", plugin.name)
        protected = protector.protect(image, annotation, budget, rng, state, run_seed)
        _check_contract(plugin.name, image_id, before, image, protected)
        written = _encode(protected, target_path, identity["codec"])
        decoded = imageio.read_rgb(written)
        levels = budget.levels(annotation.foreground)
        over = excess(image, decoded, levels)
        if over > 0 and protector.bounded and identity["codec"] == "png":
            raise BudgetViolation(
                f"protector {plugin.name!r} exceeds its budget by {over} levels on image {image_id!r}"
            )
        rows.append(
            {
                "image": image_id,
                "file": str(written.relative_to(target)),
                "sha256": hashlib.sha256(written.read_bytes()).hexdigest(),
                "over_budget_levels": max(over, 0),
                **quality.compare(image, decoded, annotation.foreground),
            }
        )
        if len(sheet) < SHEET_IMAGES:
            sheet.append((image, decoded))
        context.report(len(rows), total, "images")
        return written

    source.write_copy(target, write_image)
    write_contact_sheet(sheet, context.folder / CONTACT_SHEET)
    with open(context.folder / MANIFEST, "w", encoding="utf-8") as stream:
        for row in rows:
            stream.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
    return {"images": len(rows), **quality.summary(rows)}


def _encode(image: np.ndarray, target: Path, codec: str) -> Path:
    if codec == "jpeg95":
        path = target.with_suffix(".jpg")
        imageio.write_jpeg95(path, image)
    else:
        path = target.with_suffix(".png")
        imageio.write_png(path, image)
    return path


def _check_contract(
    name: str, image_id: str, before: np.ndarray, image: np.ndarray, protected: np.ndarray
) -> None:
    if not isinstance(protected, np.ndarray) or protected.dtype != np.uint8:
        raise ContractViolation(f"protector {name!r} returned no uint8 array for image {image_id!r}")
    if protected.shape != before.shape:
        raise ContractViolation(
            f"protector {name!r} returned shape {protected.shape} for image {image_id!r} of {before.shape}"
        )
    if not np.array_equal(before, image):
        raise ContractViolation(f"protector {name!r} changed its input in place (image {image_id!r})")
