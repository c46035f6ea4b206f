"""Examines the environment, and says what is wrong with it and how to mend it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bench.errors import EXIT_DONE, EXIT_ENVIRONMENT, BenchError
from bench.machine import PACKAGES, gpu_names, package_versions, usable_cores
from bench.registry import KINDS, listings

LOW_DISK_GIB = 5


@dataclass(frozen=True)
class Check:
    """One finding.

    Attributes:
        name: What was looked at.
        state: `ok`, `warn` (it runs, with a limit) or `fail`.
        text: What was found, and the mend.
    """

    name: str
    state: Literal["ok", "warn", "fail"]
    text: str

    @property
    def exit_code(self) -> int:
        """3 for a failure, else 0."""
        return EXIT_ENVIRONMENT if self.state == "fail" else EXIT_DONE


def examine(store: Path) -> Iterator[Check]:
    """Yields a finding per part of the environment; none stops the others."""
    yield Check("python", "ok", sys.version.split()[0])
    yield from _packages()
    for name, check in (
        ("torch", _torch),
        ("operators", _operators),
        ("models", _models),
        ("store", lambda: _store(store)),
    ):
        try:
            yield check()
        except Exception as error:  # a finding, whatever it is
            yield Check(name, "fail", f"{type(error).__name__}: {' '.join(str(error).split())}")
    for kind in KINDS:
        for row in listings(kind):
            if row.problem:
                yield Check(kind, "warn", row.problem)


def _packages() -> Iterator[Check]:
    versions = package_versions()
    missing = [name for name in PACKAGES if versions[name] is None]
    if missing:
        yield Check(
            "packages",
            "fail",
            f"{', '.join(missing)} missing: install unseg-bench into this environment again",
        )
    else:
        yield Check("packages", "ok", ", ".join(f"{n} {versions[n]}" for n in PACKAGES))


def _torch() -> Check:
    import torch

    cores = usable_cores()
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        return Check("torch", "ok", f"{torch.__version__}, CUDA: {names}, {cores} CPU cores")
    if gpu_names():
        return Check(
            "torch",
            "fail",
            f"the driver shows {', '.join(gpu_names())}, and torch {torch.__version__} cannot use it: "
            "install the torch build that fits the driver",
        )
    return Check(
        "torch", "ok", f"{torch.__version__}, no CUDA: trainings run on {cores} CPU cores, profile cpu"
    )


def _operators() -> Check:
    from bench.mmcv_ext import install

    compiled = install()
    import torch
    from mmcv.ops import nms, roi_align

    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 1, 10, 10], [20, 20, 30, 30]])
    kept = nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5)[1].tolist()
    pooled = roi_align(torch.ones(1, 1, 8, 8), torch.tensor([[0.0, 0, 0, 4, 4]]), (2, 2), 1.0, 0, "avg", True)
    if kept != [0, 2] or not torch.allclose(pooled, torch.ones(1, 1, 2, 2)):
        return Check(
            "operators", "fail", "mmcv.ops give wrong results: torchvision and torch do not fit together"
        )
    return Check(
        "operators", "ok", "mmcv's compiled extension" if compiled else "mmcv.ops on torchvision's operators"
    )


def _models() -> Check:
    from bench.mmcv_ext import install

    install()
    _quietly(lambda: __import__("mmdet.models"))
    _quietly(lambda: __import__("mmseg.models"))
    import segment_anything
    import segmentation_models_pytorch

    return Check(
        "models",
        "ok",
        f"mmdet, mmseg, {segment_anything.__name__}, {segmentation_models_pytorch.__name__} import",
    )


def _store(store: Path) -> Check:
    from bench.store import Store

    folder = store
    while not folder.exists():
        folder = folder.absolute().parent
    free = shutil.disk_usage(folder).free / 2**30
    if not os.access(folder, os.W_OK):
        return Check("store", "fail", f"{folder} cannot be written: name another folder with --store")
    if store.exists():
        try:
            Store(store).prepare()
        except BenchError as error:
            return Check("store", "fail", str(error))
    state: Literal["ok", "warn"] = "warn" if free < LOW_DISK_GIB else "ok"
    return Check("store", state, f"{store}: {free:.0f} GiB free")


def _quietly(call: Callable[[], object]) -> None:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        call()
