"""What the two adapters of COCO's layout share: jsons, image folders, copies."""

from __future__ import annotations

import json
from abc import abstractmethod
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, Self

from pydantic import model_validator

from bench.datasets.base import SPLITS, DatasetOptions, Split
from bench.datasets.coco_json import CocoContent, CocoImage, read_coco
from bench.datasets.coco_layout import existing, find_images, find_json, locate
from bench.datasets.folder import DatasetFile, FolderDataset
from bench.datasets.imageio import image_size
from bench.datasets.layout import first_few, plural, require_root
from bench.datasets.resize import resized_shape
from bench.errors import DatasetError


class CocoOptions(DatasetOptions):
    """Options of both adapters, for layouts that are not found by themselves.

    Attributes:
        train_json: The training json, relative to the dataset's folder.
        val_json: The validation json.
        train_images: The folder below which the training json's file names lie, relative to the dataset's folder.
        val_images: The same for the validation json.
    """

    train_json: str | None = None
    val_json: str | None = None
    train_images: str | None = None
    val_images: str | None = None

    @model_validator(mode="after")
    def _paths_are_inside(self) -> Self:
        for name, value in self:
            if isinstance(value, str) and (value.startswith("/") or ".." in PurePosixPath(value).parts):
                raise ValueError(f"{name} must lie in the dataset folder")
        return self


class CocoDataset(FolderDataset):
    """Images that a json of each split names.

    Ids are the file names without suffix. Images that no json names are not part of the dataset; images
    without annotations are.

    Attributes:
        kind: `instances` or `panoptic`, as the jsons are called.
    """

    kind: ClassVar[str]
    Options = CocoOptions
    options: CocoOptions

    def __init__(self, root: Path, options: CocoOptions | None = None) -> None:
        # Paths in options are relative to the folder that was given.
        named = options is not None and (options.train_json or options.val_json)
        super().__init__(Path(root) if named else locate(Path(root)), options)

    def check(self) -> None:
        """Validates jsons, images and their sizes; see `Dataset.check`."""
        require_root(self.root, f"annotations/{self.kind}_{{train,val}}.json and the images")
        for split in SPLITS:
            self.require_content(self._content[split])
            self._require_images(split)
            self.require_labels(split)
        self._require_same_categories()
        self._require_disjoint()
        for split in SPLITS:
            self._require_image_sizes(split)
        self.check_sizes()

    @abstractmethod
    def require_content(self, content: CocoContent) -> None:
        """Validates what is special to the adapter's jsons."""

    def require_labels(self, split: Split) -> None:
        """Validates that the label files beside the json are there; nothing to do without any."""

    def ids(self, split: Split) -> tuple[str, ...]:
        """The file names without suffix, in the order of the json."""
        return tuple(self._content[split].images)

    def image_path(self, split: Split, image_id: str) -> Path:
        """The image that the json names."""
        name = self.entry(split, image_id).file_name
        path = existing(self._folder[split], name)
        if path is None:
            raise DatasetError(
                f"image {self._folder[split] / name} is missing; restore it or take it out of {self.json_path(split)}"
            )
        return path

    def json_path(self, split: Split) -> Path:
        """The json of a split."""
        return self._content[split].path

    def entry(self, split: Split, image_id: str) -> CocoImage:
        """The json's entry of an image.

        Raises:
            DatasetError: There is none.
        """
        try:
            return self._content[split].images[image_id]
        except KeyError:
            raise DatasetError(f"{self.json_path(split)} names no image '{image_id}'") from None

    def raw_annotations(self, split: Split, image_id: str) -> list[dict[str, Any]]:
        """The json's annotations of an image."""
        return self._content[split].annotations[self.entry(split, image_id).number]

    def inventory(self) -> list[DatasetFile]:
        """Jsons and images, and what the adapter adds; see `FolderDataset.inventory`."""
        files = []
        for split in SPLITS:
            path = self.json_path(split)
            target = PurePosixPath(path.relative_to(self.root).as_posix())
            files.append(DatasetFile(path, target, "coco_json", split))
            folder = PurePosixPath(self._folder[split].relative_to(self.root).as_posix())
            for image_id in self.ids(split):
                target = folder / self.entry(split, image_id).file_name
                files.append(DatasetFile(self.image_path(split, image_id), target, "image", split, image_id))
                files += self.label_files(split, image_id)
        return files

    def label_files(self, split: Split, image_id: str) -> list[DatasetFile]:
        """Label files of an image beside the json."""
        return []

    def resized_content(self, file: DatasetFile, longest_side: int) -> dict[str, Any]:
        """A json whose images were resized and stored as PNG; annotations are as they were."""
        content = json.loads(file.source.read_text(encoding="utf-8-sig"))
        for image in content["images"]:
            image["height"], image["width"] = resized_shape(image["height"], image["width"], longest_side)
            image["file_name"] = PurePosixPath(image["file_name"]).with_suffix(".png").as_posix()
        return content

    @cached_property
    def _content(self) -> dict[Split, CocoContent]:
        jsons = {"train": self.options.train_json, "val": self.options.val_json}
        return {split: read_coco(find_json(self.root, split, self.kind, jsons[split])) for split in SPLITS}

    @cached_property
    def _folder(self) -> dict[Split, Path]:
        given = {"train": self.options.train_images, "val": self.options.val_images}
        return {
            split: find_images(
                self.root,
                split,
                self.json_path(split),
                (image.file_name for image in self._content[split].images.values()),
                given[split],
            )
            for split in SPLITS
        }

    def _require_images(self, split: Split) -> None:
        folder = self._folder[split]
        names = [image.file_name for image in self._content[split].images.values()]
        missing = [name for name in names if existing(folder, name) is None]
        if missing:
            raise DatasetError(
                f"{plural(len(missing), 'image')} of {len(names)} missing in {folder}: {first_few(missing)}; "
                f"restore them or take them out of {self.json_path(split)}"
            )

    def _require_same_categories(self) -> None:
        train, val = (self._content[split].categories for split in SPLITS)
        if train != val:
            differing = next(c for c in (*train, *val) if (c in train) != (c in val))
            raise DatasetError(
                f"{self.json_path('train')} and {self.json_path('val')} have other categories: {differing.number} "
                f"({differing.name}) is not the same in both; give both the same list"
            )

    def _require_disjoint(self) -> None:
        """Raises if a file is in both splits: scores would be measured on training data."""
        train, val = (
            {(self._folder[split] / image_id).as_posix(): image_id for image_id in self.ids(split)}
            for split in SPLITS
        )
        both = sorted(train[path] for path in train.keys() & val.keys())
        if both:
            raise DatasetError(
                f"{plural(len(both), 'image')} in both {self.json_path('train')} and {self.json_path('val')}: "
                f"{first_few(both)}; take them out of one"
            )

    def _require_image_sizes(self, split: Split) -> None:
        wrong = []
        for image_id in self.ids(split):
            entry = self.entry(split, image_id)
            height, width = image_size(self.image_path(split, image_id))
            if (height, width) != (entry.height, entry.width):
                wrong.append(f"{entry.file_name} ({width} x {height}, json {entry.width} x {entry.height})")
        if wrong:
            raise DatasetError(
                f"{plural(len(wrong), 'image')} of another size than {self.json_path(split)} says: {first_few(wrong)}; "
                "use the images that were annotated"
            )
