"""`bench protect`: from a request to protected files, a manifest, a contact sheet and a summary.

The output folder holds

    <names of the images>     protected photographs, in the sub-folders of the originals
    dataset/                  or a protected dataset in its layout; work/ while it is being made
    manifest.jsonl            a line per image: hashes, real L-infinity inside and outside the mask, PSNR, SSIM,
                              share protected, seconds, notes; or the error
    protect.json              everything that can change a protected file
    contact_sheet.png         a few images: clean, protected, noise amplified
"""

from __future__ import annotations

import contextlib
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bench.datasets import imageio
from bench.errors import BenchError, EnvironmentFault, UsageError
from bench.files import explained
from bench.metrics import quality
from bench.protect.manifest import Manifest
from bench.protect.output import Row
from bench.protect.pipeline import ItemT, Outcome, protect_items
from bench.protect.prompts import ObjectPrompt, default_region
from bench.protect.protection import Protection
from bench.protect.request import (
    Request,
    find_protector,
    identity_of_request,
    load_protection,
    require_one_source,
)
from bench.protect.sources import CONTACT_SHEET
from bench.protect.work import PhotoWork, SampleWork, Work
from bench.report.contact_sheet import write_contact_sheet

SHEET_IMAGES = 4
BATCH_ON_GPU = 8
Report = Callable[[int, int, str], None]


@dataclass
class Summary:
    """What was done.

    Attributes:
        images: Images that were asked for.
        done: Images protected in this run.
        skipped: Images that an earlier run had protected.
        failed: Name and reason of each image without a protected file.
        nameless: Names of prompts whose image does not exist.
        seconds: Time from the first image to the last.
        quality: `bench.metrics.quality.summary` over all protected images, of earlier runs too.
        peak_memory_gib: Greatest resident memory of this process.
        stopped: Whether `strict` ended the run.
        dataset: The protected dataset, if one was written.
    """

    images: int
    done: int = 0
    skipped: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)
    nameless: tuple[str, ...] = ()
    seconds: float = 0.0
    quality: Row = field(default_factory=dict)
    peak_memory_gib: float = 0.0
    stopped: bool = False
    dataset: Path | None = None


def protect(request: Request, report: Report = lambda done, total, note: None) -> Summary:
    """Protects what is asked for; see this module.

    Args:
        request: What to do.
        report: Called as `report(done, total, note)`, for the progress line.

    Raises:
        UsageError: The request does not fit together, or the output folder belongs to something else.
        DatasetError: The dataset's layout is wrong.
        EnvironmentFault: Memory or disk space is missing.
    """
    require_one_source(request)
    protector, state_dir = find_protector(request)
    work = PhotoWork(request) if request.dataset is None else SampleWork(request)
    identity = identity_of_request(request, protector, state_dir)
    protection = load_protection(request, protector, state_dir)
    _require_regions(protection, work.objects())
    with _explained(request.output), Manifest(request.output, identity, request.force) as manifest:
        summary = _work_off(request, protection, work, manifest, report)
        is_complete = not summary.failed and not summary.stopped
        summary.dataset = work.finish(manifest, is_complete, is_changed=summary.done > 0)
        if summary.done or not (request.output / CONTACT_SHEET).exists():
            write_contact_sheet(_pairs(work, manifest, summary), request.output / CONTACT_SHEET)
        summary.quality = quality.summary(_measured(work, manifest))
    summary.peak_memory_gib = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)
    return summary


def _require_regions(protection: Protection, objects: Iterator[tuple[ObjectPrompt, ...]]) -> None:
    """Refuses a region that no image could get, before the first one is tried."""
    can_predict = protection.protector.predicts_regions(protection.state)
    for prompts in objects:
        region = protection.region or default_region(prompts)
        if region == "predicted" and not can_predict:
            raise UsageError(
                "the region of points cannot be predicted without a pretrained mask decoder, and this "
                f"{protection.protector.name!r} has none: give boxes, or --region image"
            )
        if region == "box" and any(item.box is None for item in prompts):
            raise UsageError("points have no box: give --region predicted or --region image")


def _work_off(
    request: Request, protection: Protection, work: Work[ItemT], manifest: Manifest, report: Report
) -> Summary:
    summary = Summary(images=work.count, nameless=work.nameless)
    for folder in {item.target.parent for item in work.items()}:
        folder.mkdir(parents=True, exist_ok=True)
    source, on_gpu = work.source(manifest), request.device.startswith("cuda")
    started = time.perf_counter()
    outcomes = protect_items(
        protection,
        work.items(),
        source,
        workers=request.workers,
        batch_size=request.batch_size or (BATCH_ON_GPU if on_gpu else 1),
    )
    with contextlib.closing(outcomes):
        for count, outcome in enumerate(outcomes, start=1):
            _take(outcome, work, request.output, manifest, summary)
            report(count, summary.images, f"{len(summary.failed)} failed" if summary.failed else "images")
            if summary.failed and request.strict:
                summary.stopped = True
                break
    summary.seconds = time.perf_counter() - started
    return summary


def _take(
    outcome: Outcome[ItemT], work: Work[ItemT], output: Path, manifest: Manifest, summary: Summary
) -> None:
    """Notes an outcome in the manifest and in the summary."""
    name = outcome.item.name
    if outcome.error is not None:
        message = _one_line(outcome.error)
        summary.failed.append((name, message))
        manifest.append({"image": name, "error": message})
    elif outcome.row is None:
        summary.skipped += 1
    else:
        summary.done += 1
        row = {
            **outcome.row,
            "file": outcome.item.target.relative_to(output).as_posix(),
            **outcome.hashes,
            "protected_share": outcome.protected_share,
            "seconds": outcome.seconds,
            "notes": list(outcome.notes),
        }
        manifest.append(row)


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, BenchError) else f"{type(error).__name__}: {text}"


def _measured(work: Work, manifest: Manifest) -> Iterator[Row]:
    """The lines of the request's own protected images."""
    return (row for row in manifest.rows(item.name for item in work.items()) if "ssim" in row)


def _pairs(work: Work, manifest: Manifest, summary: Summary) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """A few protected images, evenly spread, beside their sources."""
    last = summary.done + summary.skipped - 1
    shown = {round(last * k / max(1, SHEET_IMAGES - 1)) for k in range(SHEET_IMAGES)}
    for index, row in enumerate(_measured(work, manifest)):
        if index in shown:
            yield work.image(row["image"]), imageio.read_rgb(manifest.folder / row["file"])


@contextlib.contextmanager
def _explained(output: Path) -> Iterator[None]:
    """Turns the operating system's errors about the output folder into one line each."""
    with explained(output, "--output", "free some and run the same again, what is done stays done"):
        try:
            yield
        except EnvironmentFault as error:
            # What writes files has explained it already, for the users of a store.
            raise (error.__cause__ if isinstance(error.__cause__, OSError) else error) from None
