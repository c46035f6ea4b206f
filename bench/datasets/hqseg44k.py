"""HQSeg-44K (Ke et al., NeurIPS 2023), as SAM-HQ's authors publish it: seven sets to train on, four to test.

The folder that their three archives are unpacked into:

    DIS5K/DIS-TR/{im,gt}  DIS5K/DIS-VD/{im,gt}
    thin_object_detection/ThinObject5K/{images_train,masks_train,images_test,masks_test}
    thin_object_detection/COIFT/{images,masks}  thin_object_detection/HRSOD/{images,masks_max255}
    cascade_psp/{DUTS-TR,DUTS-TE,fss_all,ecssd,MSRA_10K}   JPEG images and PNG masks of one stem, together

In copies, and wherever somebody sorted them, the sets of `cascade_psp` have folders `im` and `gt`: a protected
image is a PNG, and would have the name of its mask.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Literal

from pydantic import Field, field_validator

from bench.datasets.base import SPLITS, Annotation, DatasetOptions, Split
from bench.datasets.folder import DatasetFile, FolderDataset
from bench.datasets.imageio import read_binary_mask
from bench.datasets.layout import first_few, index_by_stem, require_files, require_root
from bench.errors import DatasetError

EXPECTED = "DIS5K/, thin_object_detection/ and cascade_psp/"

TRAIN_SETS: dict[str, tuple[str, str]] = {
    "DIS5K-TR": ("DIS5K/DIS-TR/im", "DIS5K/DIS-TR/gt"),
    "ThinObject5K-TR": (
        "thin_object_detection/ThinObject5K/images_train",
        "thin_object_detection/ThinObject5K/masks_train",
    ),
    "FSS": ("cascade_psp/fss_all", "cascade_psp/fss_all"),
    "DUTS-TR": ("cascade_psp/DUTS-TR", "cascade_psp/DUTS-TR"),
    "DUTS-TE": ("cascade_psp/DUTS-TE", "cascade_psp/DUTS-TE"),
    "ECSSD": ("cascade_psp/ecssd", "cascade_psp/ecssd"),
    "MSRA10K": ("cascade_psp/MSRA_10K", "cascade_psp/MSRA_10K"),
}
VAL_SETS: dict[str, tuple[str, str]] = {
    "DIS5K-VD": ("DIS5K/DIS-VD/im", "DIS5K/DIS-VD/gt"),
    "COIFT": ("thin_object_detection/COIFT/images", "thin_object_detection/COIFT/masks"),
    "HRSOD": ("thin_object_detection/HRSOD/images", "thin_object_detection/HRSOD/masks_max255"),
    "ThinObject5K-TE": (
        "thin_object_detection/ThinObject5K/images_test",
        "thin_object_detection/ThinObject5K/masks_test",
    ),
}
SETS: dict[Split, dict[str, tuple[str, str]]] = {"train": TRAIN_SETS, "val": VAL_SETS}
"""Image and mask folder of each set, by split."""

TrainSet = Literal["DIS5K-TR", "ThinObject5K-TR", "FSS", "DUTS-TR", "DUTS-TE", "ECSSD", "MSRA10K"]
ValSet = Literal["DIS5K-VD", "COIFT", "HRSOD", "ThinObject5K-TE"]


class HQSeg44KOptions(DatasetOptions):
    """Options of `hqseg44k`.

    Attributes:
        train_sets: Sets to train on; all seven are HQSeg-44K.
        val_sets: Sets to test on. The authors report them one by one.
    """

    train_sets: tuple[TrainSet, ...] = Field(default=tuple(TRAIN_SETS), min_length=1)
    val_sets: tuple[ValSet, ...] = Field(default=tuple(VAL_SETS), min_length=1)

    @field_validator("train_sets", "val_sets")
    @classmethod
    def _once_each(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) < len(value):
            raise ValueError("a set is named twice")
        return value


@dataclass(frozen=True)
class _Pair:
    """An image with its mask, and the folders that they have in a copy."""

    image: Path
    mask: Path
    image_folder: PurePosixPath
    mask_folder: PurePosixPath


class HQSeg44K(FolderDataset):
    """Images with one object mask each, above 127. Ids are `set/stem`, in the order of the sets."""

    name = "hqseg44k"
    summary = "HQSeg-44K and its four test sets, as SAM-HQ's authors publish them; binary and interactive"
    Options = HQSeg44KOptions
    options: HQSeg44KOptions
    tasks = frozenset({"binary", "interactive"})
    classes = ("background", "object")

    def check(self) -> None:
        """Validates folders, pairs and their sizes; see `Dataset.check`."""
        require_root(self.root, EXPECTED)
        self.check_sizes()

    def ids(self, split: Split) -> tuple[str, ...]:
        """`set/stem` of all images of the split's sets."""
        return tuple(self._pairs[split])

    def image_path(self, split: Split, image_id: str) -> Path:
        """The image file, of whatever codec."""
        return self._pair(split, image_id).image

    def annotation(self, split: Split, image_id: str) -> Annotation:
        """Decodes the mask; see `Dataset.annotation`."""
        path = self._pair(split, image_id).mask
        mask = read_binary_mask(path)
        self.require_size(path, mask.shape, split, image_id)
        return Annotation(mask.astype("uint8"), (), mask)

    def inventory(self) -> list[DatasetFile]:
        """Images and masks of the sets that are used; see `FolderDataset.inventory`."""
        files = []
        for split in SPLITS:
            for image_id, pair in self._pairs[split].items():
                image, mask = pair.image_folder / pair.image.name, pair.mask_folder / pair.mask.name
                files.append(DatasetFile(pair.image, image, "image", split, image_id))
                files.append(DatasetFile(pair.mask, mask, "mask", split, image_id))
        return files

    def _pair(self, split: Split, image_id: str) -> _Pair:
        try:
            return self._pairs[split][image_id]
        except KeyError:
            raise DatasetError(f"{self.root} has no image '{image_id}' in {split}") from None

    @cached_property
    def _pairs(self) -> dict[Split, dict[str, _Pair]]:
        require_root(self.root, EXPECTED)
        names: dict[Split, tuple[str, ...]] = {"train": self.options.train_sets, "val": self.options.val_sets}
        return {
            split: {image_id: pair for name in names[split] for image_id, pair in self._read(split, name)}
            for split in SPLITS
        }

    def _read(self, split: Split, name: str) -> list[tuple[str, _Pair]]:
        """The pairs of a set."""
        folders = tuple(PurePosixPath(folder) for folder in SETS[split][name])
        if folders[0] == folders[1]:
            target = folders[0] / "im", folders[1] / "gt"
            apart = all((self.root / folder).is_dir() for folder in target)
            folders = target if apart else folders
        else:
            target = folders
        paths = [self.root / folder for folder in folders]
        missing = sorted({str(path) for path in paths if not path.is_dir()})
        if missing:
            raise DatasetError(
                f"{first_few(missing)} of {name} is missing; unpack its archive there, or leave the set out by the "
                f"option {split}_sets"
            )
        if paths[0] == paths[1]:
            images, masks = index_by_stem(paths[0], (".jpg", ".jpeg")), index_by_stem(paths[1], (".png",))
        else:
            images, masks = (index_by_stem(path) for path in paths)
        if not images:
            raise DatasetError(f"{paths[0]} of {name} holds no image; unpack its archive there")
        require_files(images, masks, paths[1], "mask", name)
        return [(f"{name}/{stem}", _Pair(images[stem], masks[stem], *target)) for stem in images]
