"""ADE20K as the scene parsing benchmark publishes it: `ADEChallengeData2016`, 150 classes.

    images/{training,validation}/*.jpg
    annotations/{training,validation}/*.png             0 "other", 1 to 150 the classes
    annotations_instance/{training,validation}/*.png    optional: red the category, green the instance

The instances are an archive of their own, of the Places Challenge 2017. `annotations_detectron2`, which
detectron2 derives from `annotations`, is not read. The full ADE20K release has another layout.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np

from bench.datasets.ade20k_names import CLASSES, THINGS
from bench.datasets.base import SPLITS, VOID, Annotation, Category, Segment, Split
from bench.datasets.folder import DatasetFile
from bench.datasets.imageio import read_id_png, read_label_png
from bench.datasets.layout import (
    first_few,
    index_by_stem,
    nearby_layout,
    require_disjoint,
    require_files,
    require_root,
)
from bench.datasets.whole_scene import WholeSceneDataset, WholeSceneOptions
from bench.errors import DatasetError

IMAGES, LABELS, INSTANCES, DERIVED = (
    "images",
    "annotations",
    "annotations_instance",
    "annotations_detectron2",
)
FOLDERS: dict[Split, str] = {"train": "training", "val": "validation"}
COPY = PurePosixPath("ADEChallengeData2016")
"""Where a copy is written, so that it is called as the archive unpacks."""
EXPECTED = f"{IMAGES}/ and {LABELS}/, each with training/ and validation/ (the ADEChallengeData2016 layout)"
FULL_RELEASE = (f"{IMAGES}/ADE", f"{IMAGES}/training/*/*/*_seg.png")
"""What ADE20K_2021_17_01 and ADE20K_2016_07_26 have and the benchmark has not."""


class ADE20K(WholeSceneDataset):
    """ADE20K's scene parsing benchmark (Zhou et al., CVPR 2017): class k is stored as k + 1, "other" is void.

    `root` may be the folder `ADEChallengeData2016` or the one above it. Images may be of any codec.

    With `annotations_instance` there are panoptic labels, put together as Mask2Former does: stuff comes from
    the semantic labels, things from the instances, and where the two files disagree the instance wins. A pixel
    that the semantic labels give to a thing and no instance covers is in no segment. The semantic labels
    stay as they are.
    """

    name = "ade20k"
    summary = (
        "ADE20K scene parsing (ADEChallengeData2016), 150 classes; semantic, binary; panoptic, instance, "
        "detection with annotations_instance"
    )
    Options = WholeSceneOptions
    tasks = frozenset({"semantic", "binary", "panoptic", "instance", "detection"})
    classes = CLASSES
    categories = tuple(Category(name, index in THINGS) for index, name in enumerate(CLASSES))

    def __init__(self, root: Path, options: WholeSceneOptions | None = None) -> None:
        located = _locate(Path(root))
        super().__init__(located, options, has_instances=(located / INSTANCES).is_dir())

    def check(self) -> None:
        """Validates folders, pairs and their sizes; see `Dataset.check`."""
        require_root(self.root, EXPECTED)
        for name in (IMAGES, LABELS):
            for split in SPLITS:
                if not self._folder(name, split).is_dir():
                    raise DatasetError(f"{self._folder(name, split)} is missing; {self._nearby()}")
        for split in SPLITS:
            if not self.ids(split):
                raise DatasetError(f"{self._folder(IMAGES, split)} holds no image; {self._nearby()}")
            self._require_pairs(split, LABELS, "label file")
            if self.categories:
                self._require_instances(split)
        require_disjoint(self.ids("train"), self.ids("val"), self.root / IMAGES)
        self.check_sizes()

    def ids(self, split: Split) -> tuple[str, ...]:
        """The stems of the images, sorted."""
        return tuple(self._index(IMAGES, split))

    def image_path(self, split: Split, image_id: str) -> Path:
        """The image file, of whatever codec."""
        return self._file(IMAGES, split, image_id, "image")

    def label_path(self, split: Split, image_id: str) -> Path:
        """The PNG of class numbers, 0 for "other"."""
        return self._file(LABELS, split, image_id, "label file")

    def instance_path(self, split: Split, image_id: str) -> Path:
        """The PNG of categories and instances."""
        return self._file(INSTANCES, split, image_id, "instance file")

    def annotation(self, split: Split, image_id: str) -> Annotation:
        """Decodes class labels and, where the dataset has them, instances; see `Dataset.annotation`."""
        path = self.label_path(split, image_id)
        stored = read_label_png(path)
        self.require_size(path, stored.shape, split, image_id)
        largest = int(stored.max(initial=0))
        if largest > len(CLASSES):
            origin = f"it looks like one of {DERIVED}, " if largest == VOID else ""
            raise DatasetError(
                f"{path} holds index {largest}, ADE20K has 0 (other) to {len(CLASSES)}; {origin}restore the original"
            )
        semantic = stored - np.uint8(1)  # 0 wraps to 255, which is void
        segments = self._segments(split, image_id, semantic) if self.categories else ()
        everything = self.options.protected == "all"
        foreground = semantic != VOID if everything else np.isin(semantic, THINGS)
        for segment in segments:
            if everything or self.categories[segment.category].is_thing:
                foreground |= segment.mask
        return Annotation(semantic, segments, foreground)

    def inventory(self) -> list[DatasetFile]:
        """Images, labels and, where the dataset has them, instances; see `FolderDataset.inventory`."""
        files = []
        for split in SPLITS:
            for image_id in self.ids(split):
                paths = [
                    (self.image_path(split, image_id), "image"),
                    (self.label_path(split, image_id), "indices"),
                ]
                if self.categories:
                    paths.append((self.instance_path(split, image_id), "ids"))
                for path, kind in paths:
                    target = COPY / path.relative_to(self.root).as_posix()
                    files.append(DatasetFile(path, target, kind, split, image_id))
        return files

    def _segments(self, split: Split, image_id: str, semantic: np.ndarray) -> tuple[Segment, ...]:
        """Stuff in the order of the classes, then things in the order of their numbers."""
        path = self.instance_path(split, image_id)
        colours = read_id_png(path)
        self.require_size(path, colours.shape, split, image_id)
        categories, numbers = colours & 255, colours >> 8 & 255
        is_thing = numbers > 0
        stuff = np.setdiff1d(semantic[~is_thing], [*THINGS, VOID])
        segments = [Segment((semantic == index) & ~is_thing, int(index)) for index in stuff]
        for number in np.unique(numbers[is_thing]):
            mask = numbers == number
            found = np.unique(categories[mask])
            if len(found) > 1:
                raise DatasetError(
                    f"{path}: instance {number} has categories {first_few(map(str, found))}; each number (green) "
                    "must have one category (red): restore the original PNG"
                )
            if not 1 <= found[0] <= len(THINGS):
                raise DatasetError(
                    f"{path}: instance {number} has category {found[0]}, ADE20K has 1 to {len(THINGS)}; "
                    "restore the original PNG"
                )
            segments.append(Segment(mask, THINGS[found[0] - 1]))
        return tuple(segments)

    def _require_instances(self, split: Split) -> None:
        folder = self._folder(INSTANCES, split)
        if not folder.is_dir():
            raise DatasetError(
                f"{folder} is missing; restore it, or move {INSTANCES} away to go without instances"
            )
        self._require_pairs(split, INSTANCES, "instance file")

    def _require_pairs(self, split: Split, name: str, what: str) -> None:
        """Raises unless every image has a PNG and every PNG an image, as after half a download."""
        images, labels = self._index(IMAGES, split), self._index(name, split)
        image_folder, folder = self._folder(IMAGES, split), self._folder(name, split)
        require_files(images, labels, folder, what, str(image_folder))
        require_files(labels, images, image_folder, "image", str(folder))
        others = [path.name for path in labels.values() if path.suffix.lower() != ".png"]
        if others:
            raise DatasetError(
                f"{folder} holds {first_few(others)}; labels are PNGs, other formats may have changed them"
            )

    def _folder(self, name: str, split: Split) -> Path:
        return self.root / name / FOLDERS[split]

    @cached_property
    def _indices(self) -> dict[Path, dict[str, Path]]:
        return {}

    def _index(self, name: str, split: Split) -> dict[str, Path]:
        folder = self._folder(name, split)
        if folder not in self._indices:
            if not folder.is_dir():
                require_root(self.root, EXPECTED)
                raise DatasetError(f"{folder} is missing; {self._nearby()}")
            self._indices[folder] = index_by_stem(folder)
        return self._indices[folder]

    def _file(self, name: str, split: Split, image_id: str, what: str) -> Path:
        try:
            return self._index(name, split)[image_id]
        except KeyError:
            raise DatasetError(
                f"{what} of '{image_id}' is missing in {self._folder(name, split)}; restore it"
            ) from None

    def _nearby(self) -> str:
        """A hint what this folder is, where the layout lies, or what it looks like."""
        patterns = (f"{start}{pattern}" for start in ("", "*/") for pattern in FULL_RELEASE)
        if any(next(self.root.glob(pattern), None) for pattern in patterns):
            return (
                "this is the full ADE20K release (as ADE20K_2021_17_01), which has other labels; get "
                f"http://data.csail.mit.edu/places/ADEchallenge/{COPY}.zip"
            )
        if (self.root / DERIVED).is_dir() and not (self.root / LABELS).is_dir():
            return f"{DERIVED} is made from {LABELS} and not read: restore {LABELS}"
        return nearby_layout(self.root, f"{IMAGES}/{FOLDERS['train']}", EXPECTED)


def _locate(root: Path) -> Path:
    """The folder of the layout, when `root` is the one above it."""
    for candidate in (root, root / COPY):
        if any((candidate / name).is_dir() for name in (IMAGES, LABELS)):
            return candidate
    return root
