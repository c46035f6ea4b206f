"""What is protected: photographs in folders with masks or prompts, one image, or the training images of a dataset.

What becomes of unusual files:

* grey, palette, CMYK, 16-bit and EXIF-rotated images are converted as `bench.datasets.imageio` says, and the
  manifest's `notes` say so; 32-bit pixels are refused;
* an alpha channel is kept as it is in a PNG; JPEG has none, so it is dropped there, and noted;
* an ICC profile is kept where the colours are still those it describes, else dropped, and noted; other
  metadata (EXIF, GPS) is not copied;
* an empty mask is noted: UnSeg leaves the image as it is;
* a truncated file, a mask of another size, one that is missing, ambiguous or unreadable, and two images that
  would be written to one file fail by name, each for itself.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, ImageOps

from bench.datasets import imageio
from bench.datasets.base import Annotation, Dataset
from bench.datasets.layout import normalised
from bench.errors import BenchError, DatasetError
from bench.protect.output import Extras, file_sha256
from bench.protect.prompts import ObjectPrompt, mask_annotation
from bench.protect.protection import Loaded

_CONVERTED = {
    "CMYK": "CMYK",
    "YCbCr": "YCbCr",
    "LAB": "LAB",
    "HSV": "HSV",
    "P": "a palette",
    "PA": "a palette",
    "L": "grey",
    "LA": "grey",
    "I;16": "grey",
    "1": "black and white",
}
"""What modes of Pillow other than RGB are called."""
_ORIENTATION = 0x0112
CONTACT_SHEET = "contact_sheet.png"
"""The one picture in the output folder that is no protected image."""


@dataclass(frozen=True)
class Photo:
    """An image file with its mask or prompts.

    Attributes:
        name: Path relative to the folder, with `/`.
        path: The image file.
        target: The file that is written.
        mask: The mask file; None with prompts.
        objects: Prompts; empty with a mask.
        problem: Why it cannot be protected, if that is known before it is read.
    """

    name: str
    path: Path
    target: Path
    mask: Path | None = None
    objects: tuple[ObjectPrompt, ...] = ()
    problem: str = ""


@dataclass(frozen=True)
class Sample:
    """A training image of a dataset.

    Attributes:
        name: Its id.
        path: The image file.
        target: The file that is written.
    """

    name: str
    path: Path
    target: Path


class Folder:
    """The photographs of a folder and its sub-folders, sorted by name; only names are kept in memory.

    Hidden files, files without an image's suffix, and the mask and output folders are left out. Iterating opens
    no file.

    Args:
        images: The folder.
        masks: Folder of masks, in the same sub-folders under the same stems; None if there are none.
        prompts: Prompts by name; they go before masks.
        output: Where protected files go, in the same sub-folders under the same stems.
        suffix: Suffix of protected files.

    Attributes:
        nameless: The names of prompts that no image has.
    """

    def __init__(
        self,
        images: Path,
        masks: Path | None,
        prompts: Mapping[str, tuple[ObjectPrompt, ...]],
        output: Path,
        suffix: str,
    ) -> None:
        self.images, self.masks, self.prompts = images, masks, prompts
        self.output, self.suffix = output, suffix
        left_out = {folder.resolve() for folder in (output, masks) if folder is not None} - {images.resolve()}
        self._names = list(_image_names(images, left_out))
        self._masks = _by_stem(_image_names(masks, set())) if masks is not None else {}
        self._same_stem = {stem: names for stem, names in _by_stem(self._names).items() if len(names) > 1}
        self.nameless = tuple(sorted(set(prompts) - set(self._names)))

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[Photo]:
        return (self.photo(name) for name in self._names)

    def photo(self, name: str) -> Photo:
        """The photograph with this name."""
        stem = _stem(name)
        path, target = self.images / name, self.output / (stem + self.suffix)
        if target == self.output / CONTACT_SHEET:
            return Photo(name, path, target, problem=reserved(name))
        if stem in self._same_stem:
            all_names = " and ".join(self._same_stem[stem])
            return Photo(name, path, target, problem=f"{all_names} would be written to one file; rename one")
        if name in self.prompts:
            return Photo(name, path, target, objects=self.prompts[name])
        found = self._masks.get(stem, [])
        if len(found) == 1 and self.masks is not None:
            return Photo(name, path, target, mask=self.masks / found[0])
        if found:
            problem = f"there are the masks {' and '.join(found)}; keep one"
        elif self.masks is not None:
            problem = f"no mask {stem}.png (or with another suffix) in {self.masks}, and no prompt"
        else:
            problem = "no prompt names it, and no mask folder is given"
        return Photo(name, path, target, problem=problem)


def reserved(name: str) -> str:
    """Why an image cannot have this name."""
    return f"{name} would be written where the contact sheet belongs; rename it"


def photo_pixels(photo: Photo | Sample) -> int:
    """Pixels of an image by its header; 0 if it has none that can be read."""
    try:
        height, width = imageio.image_size(photo.path)
    except BenchError:
        return 0
    return height * width


def load_photo(photo: Photo, can_hold_alpha: bool) -> Loaded:
    """Reads an image with its mask.

    Args:
        photo: The files.
        can_hold_alpha: Whether the protected file can hold an alpha channel.

    Raises:
        DatasetError: Image or mask cannot be used; the message says why.
    """
    if photo.problem:
        raise DatasetError(photo.problem)
    image = imageio.read_rgb(photo.path)
    extras, notes = _extras(photo.path, can_hold_alpha)
    if photo.mask is None:
        return Loaded(image, None, photo.objects, extras, tuple(notes), photo_hashes(photo))
    mask = imageio.read_binary_mask(photo.mask)
    if mask.shape != image.shape[:2]:
        raise DatasetError(
            f"mask {photo.mask} is {mask.shape[1]} x {mask.shape[0]} pixels and the image "
            f"{image.shape[1]} x {image.shape[0]}; export it again at the size of the image"
        )
    if not mask.any():
        notes.append("the mask is empty")
    return Loaded(image, mask_annotation(mask), (), extras, tuple(notes), photo_hashes(photo))


def photo_hashes(photo: Photo) -> dict[str, str]:
    """What tells whether the source of a protected file is still the same."""
    if photo.mask is not None:
        given = file_sha256(photo.mask)
    else:
        given = hashlib.sha256(json.dumps([[o.box, o.points] for o in photo.objects]).encode()).hexdigest()
    return {"source_sha256": file_sha256(photo.path), "annotation_sha256": given}


def samples(dataset: Dataset, folder: Path, suffix: str) -> Iterator[Sample]:
    """The training images of a dataset, to be written to files in `folder` that are called by a hash of the id."""
    for image_id in dataset.ids("train"):
        name = hashlib.sha256(image_id.encode()).hexdigest()[:32] + suffix
        yield Sample(image_id, dataset.image_path("train", image_id), folder / name)


def load_sample(dataset: Dataset, sample: Sample, hashed: bool = False) -> Loaded:
    """Reads a training image of a dataset with its labels.

    Args:
        dataset: The dataset.
        sample: The image.
        hashed: Whether hashes of both are wanted.

    Raises:
        DatasetError: Image or labels are missing or unreadable.
    """
    image, annotation = dataset.image("train", sample.name), dataset.annotation("train", sample.name)
    return Loaded(image, annotation, hashes=_sample_hashes(sample, annotation) if hashed else {})


def sample_hashes(dataset: Dataset, sample: Sample) -> dict[str, str]:
    """As `photo_hashes`; of labels, what they decode to."""
    return _sample_hashes(sample, dataset.annotation("train", sample.name))


def _sample_hashes(sample: Sample, annotation: Annotation) -> dict[str, str]:
    return {
        "source_sha256": file_sha256(sample.path),
        "annotation_sha256": _annotation_sha256(annotation),
    }


def _annotation_sha256(annotation: Annotation) -> str:
    digest = hashlib.sha256(str(annotation.semantic.shape).encode())
    digest.update(np.ascontiguousarray(annotation.semantic))
    digest.update(np.packbits(annotation.foreground))
    for segment in annotation.segments:
        digest.update(f"{segment.category} {segment.is_crowd}".encode())
        digest.update(np.packbits(segment.mask))
    return digest.hexdigest()


def _extras(path: Path, can_hold_alpha: bool) -> tuple[Extras, list[str]]:
    """Alpha channel and colour profile of an image, and what was converted in reading it."""
    notes = []
    with Image.open(path) as image:
        mode, profile = image.mode, image.info.get("icc_profile")
        if mode.startswith("I;16") or _png_bits(path, image) == 16:
            notes.append("reduced from 16 bits")
        if mode in _CONVERTED:
            notes.append(f"converted from {_CONVERTED[mode]}")
        if getattr(image, "n_frames", 1) > 1:
            notes.append("the first of several frames")
        is_turned = image.getexif().get(_ORIENTATION, 1) in range(2, 9)
        if is_turned:
            notes.append("turned as its EXIF orientation says")
        has_alpha = "A" in image.getbands() or "transparency" in image.info
        alpha = None
        if has_alpha and can_hold_alpha:
            upright = ImageOps.exif_transpose(image) if is_turned else image
            alpha = np.array(upright.convert("RGBA").getchannel("A"))
        elif has_alpha:
            notes.append("alpha channel dropped")
    if profile and mode not in ("RGB", "RGBA"):
        notes.append("ICC profile dropped")
        profile = None
    return Extras(alpha, profile or None), notes


def _png_bits(path: Path, image: Image.Image) -> int:
    """Bits per sample of a PNG, which Pillow does not tell for colours; 0 for other formats."""
    if image.format != "PNG":
        return 0
    with open(path, "rb") as stream:
        return stream.read(25)[24]


def _image_names(folder: Path, left_out: Collection[Path]) -> Iterator[str]:
    """Names of the image files in a folder and below, relative with `/`, sorted within each folder."""
    for above, folders, files in os.walk(folder):
        here = Path(above)
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and (here / name).resolve() not in left_out
        )
        relative = here.relative_to(folder)
        for name in sorted(files):
            if not name.startswith(".") and name.lower().endswith(imageio.IMAGE_SUFFIXES):
                yield (PurePosixPath(relative.as_posix()) / name).as_posix()


def _by_stem(names: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(_stem(name), []).append(name)
    return found


def _stem(name: str) -> str:
    """The name without its suffix, composed as Unicode NFC, so that macOS's file names match."""
    return normalised(str(PurePosixPath(name).with_suffix("")))
