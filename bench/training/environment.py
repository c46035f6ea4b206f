"""Makes mmengine, mmseg and mmdet usable, quiet, and free of files that nobody asked for."""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Sequence

from bench.errors import EnvironmentFault


def prepare(scope: str, custom_imports: Sequence[str] = ()) -> None:
    """Registers everything that configs of `scope` may name. Calling it again changes nothing.

    Args:
        scope: `mmseg`, `mmdet` or `mmengine`.
        custom_imports: Modules that register a victim's own classes.
    """
    # mmdet imports albumentations where it is installed, which asks the network for its newest version.
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    _silence()

    from bench.mmcv_ext import install

    install()

    import cv2
    from mmengine.logging import MMLogger
    from mmengine.registry import init_default_scope

    # mmengine logs the initialisation of every parameter at INFO.
    MMLogger.get_instance("mmengine", log_level="ERROR")
    cv2.setNumThreads(0)
    importlib.import_module("bench.training.transforms")
    if scope != "mmengine":
        importlib.import_module(f"{scope}.utils").register_all_modules(init_default_scope=False)
    for name in custom_imports:
        importlib.import_module(name)
    init_default_scope(scope)


def check_device(device: str) -> None:
    """Makes `device` the current one.

    Args:
        device: `cpu`, `cuda` or `cuda:<index>`.

    Raises:
        EnvironmentFault: There is no such device.
    """
    import torch

    try:
        parsed = torch.device(device)
    except RuntimeError as error:
        raise EnvironmentFault(f"unknown device {device!r}: use cpu, cuda or cuda:<index>") from error
    if parsed.type == "cpu":
        return
    if parsed.type != "cuda":
        raise EnvironmentFault(f"device {device!r} is not supported: use cpu, cuda or cuda:<index>")
    if not torch.cuda.is_available():
        raise EnvironmentFault(f"device {device!r} was asked for and torch sees no CUDA: use --device cpu")
    count = torch.cuda.device_count()
    if (parsed.index or 0) >= count:
        raise EnvironmentFault(
            f"device {device!r} was asked for and there are {count} CUDA devices, from cuda:0"
        )
    torch.cuda.set_device(parsed.index or 0)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


def _silence() -> None:
    """Hides warnings about the mm libraries' own code, which no user of the benchmark can mend."""
    warnings.filterwarnings("ignore", module=r"(mmengine|mmcv|mmdet|mmseg|timm)\b")
    warnings.filterwarnings("ignore", message="torch.meshgrid")
    warnings.filterwarnings("ignore", category=SyntaxWarning)
