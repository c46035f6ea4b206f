"""The size of an experiment. It is part of every key that it can change."""

from __future__ import annotations

import glob
from typing import Literal

Profile = Literal["ci", "cpu", "gpu", "paper"]
PROFILES: dict[Profile, str] = {
    "ci": "seconds; plumbing only, its numbers are never put in a table of results",
    "cpu": "minutes on two cores; the default without CUDA",
    "gpu": "minutes on one GPU; the default with CUDA",
    "paper": "the published protocol in full",
}


def default_profile() -> Profile:
    """`gpu` where an NVIDIA device is present, else `cpu`. Asks the device files, so torch stays unloaded."""
    return "gpu" if glob.glob("/dev/nvidia[0-9]*") else "cpu"
