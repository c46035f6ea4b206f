"""The registered dataset `shapes`: generated, deterministic, labelled for all tasks.

One folder holds the same scenes in three public layouts, images hard-linked between them:

    images/{train,val}/*.png, annotations/*.json, panoptic_{train,val}/*.png    COCO instance and panoptic
    VOCdevkit/VOC2012/                                                          Pascal VOC 2012
    images/{train,val}/, masks/{train,val}/                                     image and mask folders
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Self

import numpy as np
from pydantic import Field, model_validator

from bench.datasets.base import SPLITS, TASKS, Annotation, Category, DatasetOptions, Segment, Split
from bench.datasets.folder import DatasetFile, FolderDataset, write_json
from bench.datasets.imageio import (
    read_id_png,
    write_id_png,
    write_label_png,
    write_png,
)
from bench.datasets.layout import first_few, link_or_copy, plural, require_root
from bench.datasets.shapes.scenes import CLASSES, Scene, SceneOptions, draw_scene
from bench.errors import DatasetError
from bench.seeds import derive_seed

IDENTITY = "shapes.json"
"""Written last: a folder that has it is complete, and it says with which options it was drawn."""

BACKGROUND_CATEGORY = len(CLASSES) + 1
"""COCO category id of the stuff region; things are 1 to 5, as in the semantic labels."""

VOC_ROOT = PurePosixPath("VOCdevkit/VOC2012")

PRESETS: dict[str, dict[str, int]] = {
    "ci": {"train_images": 12, "val_images": 6, "image_size": 64},
    "cpu": {"train_images": 800, "val_images": 250, "image_size": 64},
    "gpu": {"train_images": 4000, "val_images": 500, "image_size": 128},
    "paper": {"train_images": 10000, "val_images": 1000, "image_size": 128},
}


class ShapesOptions(DatasetOptions):
    """Options of `shapes`; the defaults are those of the `cpu` profile.

    Attributes:
        train_images: Number of training scenes.
        val_images: Number of validation scenes.
        image_size: Side of the square images in pixels.
        seed: Chooses the series of scenes; train and val are different series.
        min_objects: Least number of objects in a scene, distractors included.
        max_objects: Greatest number of objects in a scene.
        distractor_share: Probability in [0, 1] that an object is an unlabelled distractor.
        min_radius: Least radius of an object as a share of the side.
        max_radius: Greatest radius of an object as a share of the side.
        pixel_noise: Standard deviation of the sensor noise, image range [0, 1].
    """

    train_images: int = Field(default=PRESETS["cpu"]["train_images"], ge=1, le=1_000_000)
    val_images: int = Field(default=PRESETS["cpu"]["val_images"], ge=1, le=1_000_000)
    image_size: int = Field(default=PRESETS["cpu"]["image_size"], ge=16, le=2048)
    seed: int = Field(default=0, ge=0)
    min_objects: int = Field(default=SceneOptions.min_objects, ge=0)
    max_objects: int = Field(default=SceneOptions.max_objects, ge=1, le=100)
    distractor_share: float = Field(default=SceneOptions.distractor_share, ge=0, le=1)
    min_radius: float = Field(default=SceneOptions.min_radius, gt=0)
    max_radius: float = Field(default=SceneOptions.max_radius, le=1)
    pixel_noise: float = Field(default=SceneOptions.pixel_noise, ge=0, le=1)

    @model_validator(mode="after")
    def _ranges(self) -> Self:
        if self.min_objects > self.max_objects or self.min_radius > self.max_radius:
            raise ValueError("min_objects and min_radius must not exceed max_objects and max_radius")
        return self

    def scene(self) -> SceneOptions:
        """The part that `draw_scene` takes."""
        return SceneOptions(
            size=self.image_size,
            min_objects=self.min_objects,
            max_objects=self.max_objects,
            distractor_share=self.distractor_share,
            min_radius=self.min_radius,
            max_radius=self.max_radius,
            pixel_noise=self.pixel_noise,
        )


class Shapes(FolderDataset):
    """Scenes of textured outlines on textured background (`bench.datasets.shapes.scenes`).

    Semantic classes are background and five outlines; for panoptic segmentation the background is one stuff
    region; for the binary and interactive tasks the object is the union of the labelled outlines.
    """

    name = "shapes"
    version = 1
    summary = "drawn scenes, no download; class by outline only, with distractors; all tasks"
    generated = True
    Options = ShapesOptions
    presets = PRESETS
    options: ShapesOptions
    tasks = frozenset(TASKS)
    classes = ("background", *CLASSES)
    categories = (
        *(Category(name, is_thing=True) for name in CLASSES),
        Category("background", is_thing=False),
    )

    def nominal_side(self) -> int:
        """The side of the scenes; known before they are drawn."""
        return self.options.image_size

    def generate(self, report: Callable[[int, int, str], None] = lambda done, total, note: None) -> None:
        """Draws all scenes into `root`; see `Dataset.generate`.

        Raises:
            DatasetError: `root` holds something.
        """
        if self.root.exists() and (not self.root.is_dir() or any(self.root.iterdir())):
            raise DatasetError(f"{self.root} is not empty; shapes is drawn into an empty or new folder only")
        counts = {"train": self.options.train_images, "val": self.options.val_images}
        total, done = sum(counts.values()), 0
        lists = {}
        for split in SPLITS:
            for folder in _folders(split):
                (self.root / folder).mkdir(parents=True, exist_ok=True)
            instances, panoptic = _coco_header(True), _coco_header(False)
            ids = [f"{split}_{index:06d}" for index in range(counts[split])]
            series = derive_seed("shapes", split, self.options.seed)
            for index, image_id in enumerate(ids):
                scene = draw_scene(series, index, self.options.scene())
                self._write_scene(split, image_id, scene)
                _describe(index + 1, image_id, scene, instances, panoptic)
                done += 1
                report(done, total, f"drawing {split} scenes")
            write_json(self.root / f"annotations/instances_{split}.json", instances)
            write_json(self.root / f"annotations/panoptic_{split}.json", panoptic)
            lists[split] = ids
        lists["trainval"] = lists["train"] + lists["val"]
        for name, ids in lists.items():
            path = self.root / VOC_ROOT / f"ImageSets/Segmentation/{name}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(f"{image_id}\n" for image_id in ids), encoding="utf-8", newline="\n")
        write_json(self.root / IDENTITY, _identity(self.version, self.options))

    def check(self) -> None:
        """Validates that the folder is complete and was drawn with these options; see `Dataset.check`."""
        require_root(self.root, "a generated shapes dataset")
        path = self.root / IDENTITY
        if not path.is_file():
            raise DatasetError(
                f"{self.root} is no finished shapes dataset ({IDENTITY} is missing); "
                "delete the folder, it is drawn again when it is needed"
            )
        found = _read_json(path)
        wanted = _identity(self.version, self.options)
        if found != wanted:
            differing = sorted(key for key in {*found, *wanted} if found.get(key) != wanted.get(key))
            raise DatasetError(
                f"{self.root} was drawn with another {first_few(differing)} than asked for; "
                "give those options, or another folder"
            )
        missing = [file.target.as_posix() for file in self.inventory() if not file.source.is_file()]
        if missing:
            raise DatasetError(
                f"{plural(len(missing), 'file')} of shapes missing in {self.root}: {first_few(missing)}; "
                "delete the folder, it is drawn again when it is needed"
            )
        self.check_sizes()

    def ids(self, split: Split) -> tuple[str, ...]:
        """`train_000000`, ... in the order of drawing."""
        return tuple(self._index[split])

    def image_path(self, split: Split, image_id: str) -> Path:
        """The image in the COCO layout."""
        return self.root / f"images/{split}" / self._entry(split, image_id)["file_name"]

    def annotation(self, split: Split, image_id: str) -> Annotation:
        """Decodes the panoptic PNG, which holds everything; see `Dataset.annotation`."""
        entry = self._entry(split, image_id)
        path = self.root / f"panoptic_{split}/{image_id}.png"
        ids = read_id_png(path)
        self.require_size(path, ids.shape, split, image_id)
        semantic = np.zeros(ids.shape, np.uint8)
        segments = []
        for segment in entry["segments"]:
            mask = ids == segment["id"]
            if not mask.any():
                raise DatasetError(f"{path} lacks segment {segment['id']} of its json; delete the folder")
            segments.append(Segment(mask, segment["category_id"] - 1))
            if segment["category_id"] != BACKGROUND_CATEGORY:
                semantic[mask] = segment["category_id"]
        return Annotation(semantic, tuple(segments), semantic > 0)

    def inventory(self) -> list[DatasetFile]:
        """Every file of the three layouts; see `FolderDataset.inventory`."""
        files = [self._file(PurePosixPath(IDENTITY), "list")]
        for split in SPLITS:
            for name in ("instances", "panoptic"):
                files.append(
                    self._file(PurePosixPath(f"annotations/{name}_{split}.json"), "coco_json", split)
                )
            files.append(self._file(VOC_ROOT / f"ImageSets/Segmentation/{split}.txt", "list", split))
            for image_id in self.ids(split):
                name = self._entry(split, image_id)["file_name"]
                for target, kind in (
                    (PurePosixPath(f"images/{split}/{name}"), "image"),
                    (VOC_ROOT / f"JPEGImages/{name}", "image_link"),
                    (PurePosixPath(f"panoptic_{split}/{image_id}.png"), "ids"),
                    (PurePosixPath(f"masks/{split}/{image_id}.png"), "mask"),
                    (VOC_ROOT / f"SegmentationClass/{image_id}.png", "indices"),
                    (VOC_ROOT / f"SegmentationObject/{image_id}.png", "indices"),
                ):
                    files.append(self._file(target, kind, split, image_id))
        files.append(self._file(VOC_ROOT / "ImageSets/Segmentation/trainval.txt", "list"))
        return files

    def _file(
        self, target: PurePosixPath, kind: str, split: Split | None = None, image_id: str = ""
    ) -> DatasetFile:
        return DatasetFile(self.root / target, target, kind, split, image_id)

    def _write_scene(self, split: Split, image_id: str, scene: Scene) -> None:
        name = f"{image_id}.png"
        image = self.root / f"images/{split}/{name}"
        write_png(image, scene.image)
        link_or_copy(image, self.root / VOC_ROOT / "JPEGImages" / name)
        write_label_png(self.root / VOC_ROOT / "SegmentationClass" / name, scene.semantic)
        write_label_png(self.root / VOC_ROOT / "SegmentationObject" / name, scene.instances)
        write_png(self.root / f"masks/{split}/{name}", (scene.instances > 0).astype(np.uint8) * 255)
        write_id_png(self.root / f"panoptic_{split}/{name}", _panoptic_ids(scene))

    def _entry(self, split: Split, image_id: str) -> dict[str, Any]:
        try:
            return self._index[split][image_id]
        except KeyError:
            raise DatasetError(f"{self.root} has no scene '{image_id}' in {split}; see its json") from None

    @cached_property
    def _index(self) -> dict[Split, dict[str, dict[str, Any]]]:
        """`file_name` and `segments` of every scene, from the panoptic json."""
        index = {}
        for split in SPLITS:
            content = _read_json(self.root / f"annotations/panoptic_{split}.json")
            segments = {entry["image_id"]: entry["segments_info"] for entry in content["annotations"]}
            index[split] = {
                PurePosixPath(image["file_name"]).stem: {
                    "file_name": image["file_name"],
                    "segments": segments[image["id"]],
                }
                for image in content["images"]
            }
        return index


def _identity(version: int, options: ShapesOptions) -> dict[str, Any]:
    return {"dataset": "shapes", "version": version, **options.model_dump(mode="json")}


def _folders(split: Split) -> tuple[PurePosixPath, ...]:
    voc = (VOC_ROOT / name for name in ("JPEGImages", "SegmentationClass", "SegmentationObject"))
    return (*(PurePosixPath(f"{name}{split}") for name in ("images/", "masks/", "panoptic_")), *voc)


def _panoptic_ids(scene: Scene) -> np.ndarray:
    """Instances keep their number; the background, 0 in a scene, is one more: 0 means void in COCO."""
    return np.where(scene.instances > 0, scene.instances, len(scene.categories) + 1).astype(np.int32)


def _coco_header(things_only: bool) -> dict[str, list[dict[str, Any]]]:
    categories = [{"id": i + 1, "name": name, "isthing": 1} for i, name in enumerate(CLASSES)]
    if not things_only:
        categories.append({"id": BACKGROUND_CATEGORY, "name": "background", "isthing": 0})
    return {"images": [], "annotations": [], "categories": categories}


def _describe(
    number: int, image_id: str, scene: Scene, instances: dict[str, list], panoptic: dict[str, list]
) -> None:
    """Appends a scene to the two COCO dictionaries."""
    height, width = scene.instances.shape
    image = {"id": number, "file_name": f"{image_id}.png", "height": height, "width": width}
    instances["images"].append(image)
    panoptic["images"].append(image)
    ids = _panoptic_ids(scene)
    segments = []
    for segment_id, category in enumerate((*scene.categories, BACKGROUND_CATEGORY), start=1):
        mask = ids == segment_id
        if not mask.any():
            continue
        segment = {"category_id": category, "area": int(mask.sum()), "bbox": _box(mask), "iscrowd": 0}
        segments.append({"id": segment_id, **segment})
        if category != BACKGROUND_CATEGORY:
            rle = {"size": [height, width], "counts": _run_lengths(mask)}
            number_of_annotation = len(instances["annotations"]) + 1
            instances["annotations"].append(
                {"id": number_of_annotation, "image_id": number, "segmentation": rle, **segment}
            )
    panoptic["annotations"].append(
        {"image_id": number, "file_name": f"{image_id}.png", "segments_info": segments}
    )


def _box(mask: np.ndarray) -> list[int]:
    """`[x, y, width, height]` of the pixels of a mask."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return [
        int(columns[0]),
        int(rows[0]),
        int(columns[-1] - columns[0] + 1),
        int(rows[-1] - rows[0] + 1),
    ]


def _run_lengths(mask: np.ndarray) -> list[int]:
    """COCO's uncompressed run lengths: down the columns, beginning with a run of zeros."""
    flat = np.concatenate([[False], mask.ravel(order="F")])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    return np.diff(np.concatenate([[0], changes, [mask.size]])).tolist()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DatasetError(
            f"{path} is missing; delete the folder, it is drawn again when it is needed"
        ) from None
    except (OSError, ValueError) as error:
        raise DatasetError(f"cannot read {path}: {error}; delete the folder, it is drawn again") from None
