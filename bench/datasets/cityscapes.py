"""Cityscapes with its fine labels: `leftImg8bit` and `gtFine`, as the archives unpack.

    leftImg8bit/{train,val}/CITY/*_leftImg8bit.png
    gtFine/{train,val}/CITY/*_gtFine_labelIds.png        34 label ids
    gtFine/{train,val}/CITY/*_gtFine_instanceIds.png     16 bits: label id, or 1000 * label id + number
    gtFine/{train,val}/CITY/*_gtFine_labelTrainIds.png   derived: 19 train ids, 255 void

The archives leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip need a login at
www.cityscapes-dataset.com. Colours, polygons, coarse labels, `train_extra` and `test`, whose labels are
dummies, are not read.

A protected copy keeps the names, so that torchvision's `Cityscapes` reads it; mmseg's `CityscapesDataset` needs
the train ids, which `Cityscapes.prepare` makes where they are missing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np

from bench.datasets.base import SPLITS, VOID, Annotation, Category, Segment, Split
from bench.datasets.folder import DatasetFile
from bench.datasets.imageio import read_label_png, read_wide_label_png, write_png
from bench.datasets.layout import (
    first_few,
    index_by_stem,
    nearby_layout,
    normalised,
    plural,
    replacing,
    require_disjoint,
    require_root,
)
from bench.datasets.whole_scene import WholeSceneDataset, WholeSceneOptions
from bench.errors import DatasetError

IMAGES, LABELS, COARSE = "leftImg8bit", "gtFine", "gtCoarse"
IMAGE = "_leftImg8bit"
LABEL_IDS, INSTANCE_IDS, TRAIN_IDS = (
    f"_gtFine_{what}" for what in ("labelIds", "instanceIds", "labelTrainIds")
)
"""What the names of the files end in, before their suffix."""
ARCHIVES = {IMAGES: "leftImg8bit_trainvaltest.zip", LABELS: "gtFine_trainvaltest.zip"}
SITE = "www.cityscapes-dataset.com, which asks for a login"
EXPECTED = f"{IMAGES}/ and {LABELS}/, each with train/ and val/ (Cityscapes, from {SITE})"
TEST_CITIES = frozenset({"berlin", "bielefeld", "bonn", "leverkusen", "mainz", "munich"})

LABEL_COUNT = 34
NUMBERED = 1000
"""The least instance id that counts instances; below it are label ids of stuff and of groups."""
CLASSES: dict[str, int] = {
    "road": 7,
    "sidewalk": 8,
    "building": 11,
    "wall": 12,
    "fence": 13,
    "pole": 17,
    "traffic light": 19,
    "traffic sign": 20,
    "vegetation": 21,
    "terrain": 22,
    "sky": 23,
    "person": 24,
    "rider": 25,
    "car": 26,
    "truck": 27,
    "bus": 28,
    "train": 31,
    "motorcycle": 32,
    "bicycle": 33,
}
"""Label id of each class, in the order of the train ids. The other label ids are void."""
THINGS = tuple(train_id for train_id, label in enumerate(CLASSES.values()) if label >= CLASSES["person"])
TRAIN_ID_OF = np.full(LABEL_COUNT, VOID, np.uint8)
"""Train id of each label id, void 255."""
TRAIN_ID_OF[list(CLASSES.values())] = range(len(CLASSES))


class Cityscapes(WholeSceneDataset):
    """Cityscapes (Cordts et al., CVPR 2016): 19 classes, 8 of them with instances. Ids are `CITY/stem`.

    `root` may also be `leftImg8bit` or `gtFine` themselves. Semantic labels come from the label ids, segments
    from the instance ids, as in Cityscapes' own evaluations. A group of things that nobody counted
    is a crowd, of its class in the semantic labels. Caravans and trailers are void.
    """

    name = "cityscapes"
    summary = (
        "Cityscapes with fine labels, 19 classes; semantic, binary; panoptic, instance, detection with "
        "instanceIds"
    )
    Options = WholeSceneOptions
    tasks = frozenset({"semantic", "binary", "panoptic", "instance", "detection"})
    classes = tuple(CLASSES)
    categories = tuple(Category(name, index in THINGS) for index, name in enumerate(CLASSES))

    def __init__(self, root: Path, options: WholeSceneOptions | None = None) -> None:
        located = _locate(Path(root))
        patterns = (f"{LABELS}/{split}/*/*{INSTANCE_IDS}.png" for split in SPLITS)
        found = any(next(located.glob(pattern), None) for pattern in patterns)
        super().__init__(located, options, has_instances=found)

    def check(self) -> None:
        """Validates folders, cities, pairs and their sizes; see `Dataset.check`."""
        require_root(self.root, EXPECTED)
        for name in (IMAGES, LABELS):
            for split in SPLITS:
                if not (self.root / name / split).is_dir():
                    raise DatasetError(f"{self.root / name / split} is missing; {self._nearby(name)}")
        for split in SPLITS:
            self._require_cities(split)
            self._require_labels(split, LABEL_IDS)
            if self.categories:
                self._require_labels(split, INSTANCE_IDS)
            self._require_images(split)
        require_disjoint(self.ids("train"), self.ids("val"), self.root / IMAGES)
        self.check_sizes()

    def prepare(self, report: Callable[[int, int, str], None] = lambda done, total, note: None) -> list[str]:
        """Writes missing `*_gtFine_labelTrainIds.png` beside the label ids; see `Dataset.prepare`.

        Files that exist stay as they are, and each new one appears as a whole. They belong to the dataset and
        so to its fingerprint: prepare it before the first run.

        Returns:
            `2975 labelTrainIds written for train`, and the same for val.

        Raises:
            DatasetError: Label ids are missing or malformed, or their folder cannot be written.
        """
        missing = [
            (split, image_id)
            for split in SPLITS
            for image_id in self.ids(split)
            if image_id + TRAIN_IDS not in self._labels[split]
        ]
        for done, (split, image_id) in enumerate(missing):
            report(done, len(missing), "writing labelTrainIds")
            source = self._label(split, image_id, LABEL_IDS)
            path = source.with_name(source.name.replace(LABEL_IDS, TRAIN_IDS))
            with replacing(path) as temporary:
                write_png(temporary, _read_train_ids(source))
            self._labels[split][image_id + TRAIN_IDS] = path
        counts = {split: sum(split == of for of, _ in missing) for split in SPLITS}
        return [f"{count} labelTrainIds written for {split}" for split, count in counts.items() if count]

    def ids(self, split: Split) -> tuple[str, ...]:
        """City and stem of the images without `_leftImg8bit`, sorted."""
        return tuple(self._images[split])

    def image_path(self, split: Split, image_id: str) -> Path:
        """The image file, of whatever codec."""
        try:
            return self._images[split][image_id]
        except KeyError:
            raise DatasetError(
                f"{self.root / IMAGES / split} has no image '{image_id}'; restore it"
            ) from None

    def annotation(self, split: Split, image_id: str) -> Annotation:
        """Decodes label ids and, where the dataset has them, instance ids; see `Dataset.annotation`."""
        path = self._label(split, image_id, LABEL_IDS)
        semantic = _read_train_ids(path)
        self.require_size(path, semantic.shape, split, image_id)
        segments = self._segments(split, image_id) if self.categories else ()
        is_whole = self.options.protected == "all"
        return Annotation(semantic, segments, semantic != VOID if is_whole else np.isin(semantic, THINGS))

    def inventory(self) -> list[DatasetFile]:
        """Images, label ids, and instance ids and train ids as far as there are any."""
        kinds = {LABEL_IDS: "indices", TRAIN_IDS: "indices", INSTANCE_IDS: "wide_indices"}
        files = []
        for split in SPLITS:
            for image_id in self.ids(split):
                paths = [(self.image_path(split, image_id), "image")]
                for ending, kind in kinds.items():
                    is_needed = ending == LABEL_IDS or (ending == INSTANCE_IDS and self.categories)
                    if is_needed or image_id + ending in self._labels[split]:
                        paths.append((self._label(split, image_id, ending), kind))
                for path, kind in paths:
                    target = PurePosixPath(path.relative_to(self.root).as_posix())
                    files.append(DatasetFile(path, target, kind, split, image_id))
        return files

    def _segments(self, split: Split, image_id: str) -> tuple[Segment, ...]:
        path = self._label(split, image_id, INSTANCE_IDS)
        ids = read_wide_label_png(path)
        self.require_size(path, ids.shape, split, image_id)
        segments = []
        for number in np.unique(ids).tolist():
            is_counted = number >= NUMBERED
            label = number // NUMBERED if is_counted else number
            category = int(TRAIN_ID_OF[label]) if label < LABEL_COUNT else None
            is_thing = category in THINGS
            if category is None or (is_counted and category != VOID and not is_thing):
                raise DatasetError(
                    f"{path} holds instance id {number}, which Cityscapes has not; restore the original PNG"
                )
            if category != VOID:
                segments.append(Segment(ids == number, category, is_crowd=is_thing and not is_counted))
        return tuple(segments)

    def _label(self, split: Split, image_id: str, ending: str) -> Path:
        try:
            return self._labels[split][image_id + ending]
        except KeyError:
            raise DatasetError(
                f"label file {self.root / LABELS / split / image_id}{ending}.png is missing; restore it from "
                f"{ARCHIVES[LABELS]}"
            ) from None

    @cached_property
    def _images(self) -> dict[Split, dict[str, Path]]:
        return {
            split: {
                name.removesuffix(IMAGE): path
                for name, path in self._by_city(IMAGES, split).items()
                if name.endswith(IMAGE)
            }
            for split in SPLITS
        }

    @cached_property
    def _labels(self) -> dict[Split, dict[str, Path]]:
        """The PNGs by `CITY/stem`, stems with their endings."""
        return {split: self._by_city(LABELS, split) for split in SPLITS}

    def _by_city(self, name: str, split: Split) -> dict[str, Path]:
        """Files by `CITY/stem`, sorted."""
        folder = self.root / name / split
        if not folder.is_dir():
            require_root(self.root, EXPECTED)
            raise DatasetError(f"{folder} is missing; {self._nearby(name)}")
        suffixes = {"suffixes": (".png",)} if name == LABELS else {}
        return {
            f"{normalised(city.name)}/{stem}": path
            for city in sorted(path for path in folder.iterdir() if path.is_dir())
            for stem, path in index_by_stem(city, **suffixes).items()
        }

    def _require_cities(self, split: Split) -> None:
        """Raises unless the images of a split lie in folders of cities, under their names."""
        folder = self.root / IMAGES / split
        if index_by_stem(folder):
            raise DatasetError(
                f"{folder} holds images instead of folders of cities; unpack {ARCHIVES[IMAGES]} again"
            )
        found = self._by_city(IMAGES, split)
        if not found:
            raise DatasetError(f"{folder} holds no image; unpack {ARCHIVES[IMAGES]} (from {SITE})")
        others = [name for name in found if not name.endswith(IMAGE)]
        if others:
            raise DatasetError(
                f"{plural(len(others), 'image')} in {folder} not called *{IMAGE}: {first_few(others)}; restore "
                "the names, or take other files out"
            )
        dummies = sorted(TEST_CITIES & {image_id.split("/")[0] for image_id in self.ids(split)})
        if dummies:
            raise DatasetError(
                f"{folder} holds {first_few(dummies)} of the test split, whose labels are dummies; take them out"
            )

    def _require_labels(self, split: Split, ending: str) -> None:
        """Raises unless every image has its label file."""
        ids, found, folder = self.ids(split), self._labels[split], self.root / LABELS / split
        missing = [image_id for image_id in ids if image_id + ending not in found]
        if not missing:
            return
        whole = sorted({i.split("/")[0] for i in missing} - {name.split("/")[0] for name in found})
        beside = sorted(path.name for path in folder.glob(f"{missing[0]}*"))
        hint = f"unpack {ARCHIVES[LABELS]} again"
        if whole:
            hint = f"nothing is there of {first_few(whole)}: {hint}"
        elif beside:
            hint = f"there is only {first_few(beside)}: {hint}"
        raise DatasetError(
            f"{plural(len(missing), 'image')} of {len(ids)} without *{ending}.png in {folder}: "
            f"{first_few(missing)}; {hint}"
        )

    def _require_images(self, split: Split) -> None:
        """Raises if a label has no image, as after half a download."""
        labelled = [n.removesuffix(LABEL_IDS) for n in self._labels[split] if n.endswith(LABEL_IDS)]
        missing = [image_id for image_id in labelled if image_id not in self._images[split]]
        if missing:
            raise DatasetError(
                f"{plural(len(missing), 'image')} of {len(labelled)} with labels missing in "
                f"{self.root / IMAGES / split}: {first_few(missing)}; unpack {ARCHIVES[IMAGES]} again, or take "
                "their labels out"
            )

    def _nearby(self, name: str) -> str:
        """A hint where a missing half of the layout lies, or where to get it."""
        if (self.root / IMAGES).is_dir() or (self.root / LABELS).is_dir():
            for pattern in ("*", "*/*"):
                for found in sorted(self.root.glob(f"{pattern}/{name}/train")):
                    return f"move what {found.parent} holds to {self.root / name}"
            hint = f"unpack {ARCHIVES[name]} (from {SITE}) in {self.root}"
            if name == LABELS and (self.root / COARSE).is_dir():
                return f"{COARSE} is not read: {hint}"
            return hint
        apart = [next(self.root.glob(f"*/{half}/train"), None) for half in (IMAGES, LABELS)]
        if all(apart) and apart[0].parents[1] != apart[1].parents[1]:
            return f"move {apart[0].parent} and {apart[1].parent} into one folder and give that"
        return nearby_layout(self.root, IMAGES, EXPECTED)


def _read_train_ids(path: Path) -> np.ndarray:
    """Reads label ids as train ids: `(H, W)` uint8, void 255."""
    labels = read_label_png(path)
    if labels.max(initial=0) >= LABEL_COUNT:
        raise DatasetError(
            f"{path} holds label id {labels.max()}, Cityscapes has 0 to {LABEL_COUNT - 1}; restore the original, "
            "which has no train ids (255 void)"
        )
    return TRAIN_ID_OF[labels]


def _locate(root: Path) -> Path:
    """The folder that holds images and labels, when `root` is one of the two."""
    if root.name in (IMAGES, LABELS) and not (root / IMAGES).is_dir() and (root / "train").is_dir():
        return root.parent
    return root
