"""Curves are drawn from records, with their numbers beside them."""

from __future__ import annotations

import csv
import json
import shutil
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench.errors import EnvironmentFault
from bench.records import RECORD_FILE, _write
from bench.report.curves import write_all_curves
from bench.report.results import columns
from bench.store import Store

Add = Callable[..., dict[str, Any]]


def with_curve(store: Store, record: dict[str, Any], *scores: float) -> None:
    body = json.loads((store.record_folder(record["key"]) / RECORD_FILE).read_text())
    del body["sha256"]
    body["curve"] = [{"iteration": 100 * (i + 1), "mIoU": score} for i, score in enumerate(scores)]
    _write(store, body)


def test_means_and_ranges_over_seeds_are_drawn_and_written(store: Store, add_record: Add) -> None:
    with_curve(store, add_record(0.9, seed=0), 0.2, 0.6)
    with_curve(store, add_record(0.9, seed=1), 0.4, 0.8)
    with_curve(store, add_record(0.5, "unseg", seed=0), 0.1, 0.3)
    add_record(0.5, "lsp", seed=0)
    paths = write_all_curves(store.root, store.root / "curves")
    assert sorted(path.suffix for path in paths) == [".csv", ".pdf", ".png"]
    by_suffix = {path.suffix: path for path in paths}
    rows = list(csv.DictReader(by_suffix[".csv"].open()))
    assert [(r["training_images"], r["iteration"], r["n"]) for r in rows] == [
        ("clean", "100", "2"),
        ("clean", "200", "2"),
        ("unseg 8/255 mask, 2/255 outside", "100", "1"),
        ("unseg 8/255 mask, 2/255 outside", "200", "1"),
    ]
    assert [float(rows[0][k]) for k in ("mean", "low", "high")] == pytest.approx([0.3, 0.2, 0.4])
    with Image.open(by_suffix[".png"]) as picture:
        assert picture.size[0] == 1024 and len(picture.convert("RGB").getcolors(1 << 20)) > 20
    again = {path.suffix: path.read_bytes() for path in write_all_curves(store.root, store.root / "again")}
    assert again == {suffix: path.read_bytes() for suffix, path in by_suffix.items()}


def test_long_labels_leave_the_axes_their_width(store: Store, add_record: Add) -> None:
    def axes_width(picture: Image.Image) -> int:
        """Columns of the image between the first and the last long vertical line."""
        dark = (np.asarray(picture.convert("L")) < 80).sum(0)
        (found,) = np.nonzero(dark > 300)
        return int(found[-1] - found[0])

    with_curve(store, add_record(0.9), 0.2, 0.6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plain = Image.open(
            next(p for p in write_all_curves(store.root, store.root / "a") if p.suffix == ".png")
        )
        for value in (1.0, 2.0):
            options = {f"train_epsilon_of_a_very_long_name_{k}": value for k in range(4)}
            with_curve(store, add_record(0.5, "unseg", options=options), 0.1, 0.3)
        long = Image.open(
            next(p for p in write_all_curves(store.root, store.root / "b") if p.suffix == ".png")
        )
    assert long.size[0] == plain.size[0] and long.size[1] > plain.size[1]
    assert abs(axes_width(long) - axes_width(plain)) < 20


def test_records_without_curves_are_named(store: Store, add_record: Add) -> None:
    add_record(0.9)
    with pytest.raises(EnvironmentFault, match="--curve N"):
        write_all_curves(store.root, store.root)


def test_a_cell_with_and_without_a_curve_is_counted_once(store: Store, add_record: Add) -> None:
    plain = add_record(0.9)
    body = json.loads((store.record_folder(plain["key"]) / RECORD_FILE).read_text())
    del body["sha256"]
    body["cell"]["curve"], body["curve"], body["key"] = 2, [{"iteration": 5, "mIoU": 0.5}], "with-curve"
    shutil.copytree(store.record_folder(plain["key"]), store.record_folder("with-curve"))
    curved = _write(store, body)
    (column,) = columns(store, [plain, curved])
    assert column.rows[0].seeds == (0,) and column.rows[0].curves == (curved["curve"],)
