"""COCO's panoptic layout: a json per split and a folder of PNGs whose colours are segment ids."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from bench.datasets.base import SPLITS, VOID, Annotation, Category, Segment, Split
from bench.datasets.coco import CocoDataset, CocoOptions
from bench.datasets.coco_json import CocoContent, require_panoptic
from bench.datasets.coco_layout import existing, find_segments
from bench.datasets.folder import DatasetFile, write_json
from bench.datasets.imageio import read_id_png
from bench.datasets.layout import first_few, plural
from bench.datasets.whole_scene import WholeSceneOptions
from bench.errors import DatasetError


class CocoPanopticOptions(CocoOptions, WholeSceneOptions):
    """Options of `coco_panoptic`.

    Attributes:
        train_segments: The folder of the training PNGs, where it is not called like the json; relative to the
            dataset's folder.
        val_segments: The same for the validation PNGs.
    """

    train_segments: str | None = None
    val_segments: str | None = None


class CocoPanoptic(CocoDataset):
    """Things and stuff that share out the image; colour 0 is void, a crowd is void in label maps.

    Categories are sorted by their id, which may have gaps. There is no background class.
    """

    name = "coco_panoptic"
    summary = "COCO panoptic json and PNGs; panoptic, instance, detection, semantic"
    kind = "panoptic"
    tasks = frozenset({"panoptic", "instance", "detection", "semantic"})
    Options = CocoPanopticOptions
    options: CocoPanopticOptions

    @cached_property
    def categories(self) -> tuple[Category, ...]:
        """All categories of the jsons."""
        return tuple(Category(c.name, bool(c.is_thing)) for c in self._content["train"].categories)

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The names of the categories."""
        return tuple(category.name for category in self.categories)

    def require_content(self, content: CocoContent) -> None:
        """Validates every entry; see `require_panoptic`."""
        require_panoptic(content)

    def require_labels(self, split: Split) -> None:
        """Validates that the PNGs are there."""
        folder = self._segment_folder[split]
        names = [self._entry(split, image_id)["file_name"] for image_id in self.ids(split)]
        missing = [name for name in names if existing(folder, name) is None]
        if missing:
            raise DatasetError(
                f"{plural(len(missing), 'panoptic PNG')} of {len(names)} missing in {folder}: "
                f"{first_few(missing)}; restore them or take them out of {self.json_path(split)}"
            )

    def segments_path(self, split: Split, image_id: str) -> Path:
        """The PNG of segment ids."""
        folder, name = self._segment_folder[split], self._entry(split, image_id)["file_name"]
        path = existing(folder, name)
        if path is None:
            raise DatasetError(
                f"panoptic PNG {folder / name} is missing; restore it or take it out of {self.json_path(split)}"
            )
        return path

    def annotation(self, split: Split, image_id: str) -> Annotation:
        """Decodes the PNG; see `Dataset.annotation`.

        Raises:
            DatasetError: It is unreadable, or PNG and json do not hold the same segments.
        """
        path = self.segments_path(split, image_id)
        ids = read_id_png(path)
        self.require_size(path, ids.shape, split, image_id)
        label_of = {category.number: k for k, category in enumerate(self._content[split].categories)}
        infos = {info["id"]: info for info in self._entry(split, image_id)["segments_info"]}
        self._require_same_segments(path, split, set(np.unique(ids).tolist()) - {0}, set(infos))
        semantic = np.full(ids.shape, VOID, np.uint8)
        foreground = np.zeros(ids.shape, bool)
        segments = []
        for number, info in infos.items():
            segment = Segment(ids == number, label_of[info["category_id"]], bool(info.get("iscrowd")))
            segments.append(segment)
            if not segment.is_crowd:
                semantic[segment.mask] = segment.category
                is_thing = self.categories[segment.category].is_thing
                if is_thing or self.options.protected == "all":
                    foreground |= segment.mask
        return Annotation(semantic, tuple(segments), foreground)

    def label_files(self, split: Split, image_id: str) -> list[DatasetFile]:
        """The PNG of segment ids."""
        folder = PurePosixPath(self._segment_folder[split].relative_to(self.root).as_posix())
        target = folder / self._entry(split, image_id)["file_name"]
        return [DatasetFile(self.segments_path(split, image_id), target, "ids", split, image_id)]

    def write_resized_json(self, file: DatasetFile, destination: Path, longest_side: int) -> None:
        """Areas and boxes are measured anew in the resized PNGs; segments that lost their last pixel go."""
        content = self.resized_content(file, longest_side)
        folder = destination / self._segment_folder[file.split].relative_to(self.root)
        for entry in content["annotations"]:
            ids = read_id_png(folder / entry["file_name"])
            measured = (_measured(info, ids == info["id"]) for info in entry["segments_info"])
            entry["segments_info"] = [info for info in measured if info["area"]]
        write_json(destination / file.target, content)

    @cached_property
    def _segment_folder(self) -> dict[Split, Path]:
        given = {"train": self.options.train_segments, "val": self.options.val_segments}
        return {s: find_segments(self.root, s, self.json_path(s), given[s]) for s in SPLITS}

    def _entry(self, split: Split, image_id: str) -> dict[str, Any]:
        return self.raw_annotations(split, image_id)[0]

    def _require_same_segments(self, path: Path, split: Split, painted: set[int], listed: set[int]) -> None:
        if painted != listed:
            number = min(painted ^ listed)
            place, other = (
                (path, self.json_path(split)) if number in painted else (self.json_path(split), path)
            )
            raise DatasetError(
                f"segment {number} of {path.name} is in {place} and not in {other}; export both again"
            )


def _measured(info: dict[str, Any], mask: np.ndarray) -> dict[str, Any]:
    """A segment's entry with the area and `[x, y, width, height]` bounds of its mask."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return {**info, "area": 0}
    x, y = int(columns[0]), int(rows[0])
    box = [x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y]
    return {**info, "area": int(mask.sum()), "bbox": box}
