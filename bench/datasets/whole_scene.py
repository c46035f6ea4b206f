"""Datasets without a background: every pixel is labelled, so what a mask budget protects is an option."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from bench.datasets.base import DatasetOptions
from bench.datasets.folder import FolderDataset

SEGMENT_TASKS = frozenset({"panoptic", "instance", "detection"})
"""What needs instances."""


class WholeSceneOptions(DatasetOptions):
    """Options of datasets without a background.

    Attributes:
        protected: What is the foreground of a mask budget: `all` labelled pixels, as UnSeg protects such sets,
            which is nearly the whole image; or `things`, the pixels of the classes that have instances. Where there
            is a task `binary`, it asks for the things, and is not there with `all`, which leaves it no background.
    """

    protected: Literal["all", "things"] = "all"


class WholeSceneDataset(FolderDataset):
    """A dataset with labels for every pixel, and with instances where their files are there.

    Args:
        root: The folder of the layout.
        options: Its options.
        has_instances: Whether the folder has the files of instances.
    """

    options: WholeSceneOptions

    def __init__(self, root: Path, options: WholeSceneOptions | None, has_instances: bool) -> None:
        super().__init__(root, options)
        if not has_instances:
            self.tasks = self.tasks - SEGMENT_TASKS
            self.categories = ()
        if self.options.protected == "all":
            self.tasks = self.tasks - {"binary"}
