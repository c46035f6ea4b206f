"""The items of a request: photographs or a dataset's training images, and what follows when all are done."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Generic

import numpy as np
from pydantic import ValidationError

from bench import registry
from bench.datasets import imageio
from bench.datasets.base import Dataset
from bench.datasets.layout import link_or_copy
from bench.errors import UsageError
from bench.protect.manifest import Manifest
from bench.protect.output import SUFFIXES
from bench.protect.pipeline import ItemT, Source
from bench.protect.prompts import ObjectPrompt, read_prompts
from bench.protect.request import Request
from bench.protect.sources import (
    CONTACT_SHEET,
    Folder,
    Photo,
    Sample,
    load_photo,
    load_sample,
    photo_hashes,
    photo_pixels,
    reserved,
    sample_hashes,
    samples,
)
from bench.spec import spec_error

DATASET, WORK = "dataset", "work"


class Work(Generic[ItemT]):
    """What a request is about: its items, how they are read, and what is to do when all have been tried.

    Attributes:
        count: Number of items.
        nameless: Names of prompts whose image does not exist.
    """

    count: int
    nameless: tuple[str, ...] = ()

    def items(self) -> Iterator[ItemT]:
        """The items, in order."""
        raise NotImplementedError

    def source(self, manifest: Manifest) -> Source[ItemT]:
        """How they are read, and which are done."""
        raise NotImplementedError

    def objects(self) -> Iterator[tuple[ObjectPrompt, ...]]:
        """All prompts, by image."""
        return iter(())

    def image(self, name: str) -> np.ndarray:
        """A clean image, `(H, W, 3)` uint8."""
        raise NotImplementedError

    def finish(self, manifest: Manifest, is_complete: bool, is_changed: bool) -> Path | None:
        """Called at the end of a run.

        Args:
            manifest: The lines.
            is_complete: Whether every item has a protected file.
            is_changed: Whether this run wrote one.

        Returns:
            The protected dataset, if there is one.
        """
        raise NotImplementedError


class PhotoWork(Work[Photo]):
    """A folder of photographs, or one."""

    def __init__(self, request: Request) -> None:
        suffix = SUFFIXES[request.codec]
        self._can_hold_alpha = request.codec == "png"
        prompts = read_prompts(request.prompts) if request.prompts is not None else {}
        if request.images is not None:
            folder = _open_folder(request, prompts, suffix)
            self._photos: Folder | list[Photo] = folder
            self.nameless = folder.nameless
        else:
            assert request.image is not None
            self._photos = [_open_photo(request.image, request, suffix)]
        self.count = len(self._photos)

    def items(self) -> Iterator[Photo]:
        """The photographs; nothing is opened."""
        return iter(self._photos)

    def source(self, manifest: Manifest) -> Source[Photo]:
        """Files that are read as `bench.protect.sources` says."""
        return Source(
            partial(load_photo, can_hold_alpha=self._can_hold_alpha),
            photo_pixels,
            lambda photo: manifest.is_done(photo.name, partial(photo_hashes, photo)),
        )

    def objects(self) -> Iterator[tuple[ObjectPrompt, ...]]:
        """The prompts of the photographs that have some."""
        return (photo.objects for photo in self.items() if photo.objects)

    def image(self, name: str) -> np.ndarray:
        """A clean photograph."""
        photo = self._photos.photo(name) if isinstance(self._photos, Folder) else self._photos[0]
        return imageio.read_rgb(photo.path)

    def finish(self, manifest: Manifest, is_complete: bool, is_changed: bool) -> Path | None:
        """One line for each image is left, those of other runs included."""
        manifest.rewrite(manifest.rows())
        return None


class SampleWork(Work[Sample]):
    """The training images of a dataset. They are protected first; then the layout is written around them."""

    def __init__(self, request: Request) -> None:
        assert request.dataset is not None
        self._output, self._suffix = request.output, SUFFIXES[request.codec]
        adapter: type[Dataset] = registry.load("dataset", request.dataset)
        if request.data_root is None:
            raise UsageError(f"dataset {request.dataset!r}: say where it lies with --data-root DIR")
        try:
            options = adapter.Options(**request.dataset_options)
        except ValidationError as error:
            raise spec_error(error, adapter.Options, f"dataset {request.dataset!r}") from error
        self._dataset = adapter(request.data_root.expanduser().absolute(), options)
        self._dataset.check()
        self.count = len(self._dataset.ids("train"))

    def items(self) -> Iterator[Sample]:
        """The training images."""
        return samples(self._dataset, self._output / WORK, self._suffix)

    def source(self, manifest: Manifest) -> Source[Sample]:
        """The dataset's own decoding."""
        return Source(
            partial(load_sample, self._dataset, hashed=True),
            photo_pixels,
            lambda sample: manifest.is_done(sample.name, partial(sample_hashes, self._dataset, sample)),
        )

    def image(self, name: str) -> np.ndarray:
        """A clean training image."""
        return self._dataset.image("train", name)

    def finish(self, manifest: Manifest, is_complete: bool, is_changed: bool) -> Path | None:
        """Writes the layout, unless an image failed, or it is there with exactly these images."""
        final = self._output / DATASET
        if not is_complete:
            return None
        if is_changed or not final.is_dir():
            files = self._write_layout(manifest, self._output / f"{DATASET}.part", final)
            rows = manifest.rows(self._dataset.ids("train"))
            manifest.rewrite({**row, "file": files[row["image"]]} for row in rows)
        shutil.rmtree(self._output / WORK, ignore_errors=True)
        return final

    def _write_layout(self, manifest: Manifest, temporary: Path, final: Path) -> dict[str, str]:
        """Writes the dataset and returns the place of each training image in the output folder."""
        files: dict[str, str] = {}

        def write_image(image_id: str, source_path: Path, target_path: Path) -> Path:
            target = target_path.with_suffix(self._suffix)
            link_or_copy(manifest.file_of(image_id), target)
            files[image_id] = (Path(DATASET) / target.relative_to(temporary)).as_posix()
            return target

        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        self._dataset.write_copy(temporary, write_image)
        shutil.rmtree(final, ignore_errors=True)
        os.rename(temporary, final)
        return files


def _open_folder(request: Request, prompts: dict[str, tuple[ObjectPrompt, ...]], suffix: str) -> Folder:
    assert request.images is not None
    for flag, folder in (("--images", request.images), ("--masks", request.masks)):
        if folder is not None and not folder.is_dir():
            raise UsageError(f"{flag} {folder} is no folder")
    if request.images.resolve() == request.output.resolve():
        raise UsageError("--output is the folder of the images: name another, the originals stay as they are")
    photos = Folder(request.images, request.masks, prompts, request.output, suffix)
    if not len(photos):
        raise UsageError(f"--images {request.images} holds no image ({', '.join(imageio.IMAGE_SUFFIXES)})")
    return photos


def _open_photo(image: Path, request: Request, suffix: str) -> Photo:
    for flag, file in (("--image", image), ("--mask", request.mask)):
        if file is not None and not file.is_file():
            raise UsageError(f"{flag} {file}: no such file")
    target = request.output / (image.stem + suffix)
    if target.resolve() == image.resolve():
        raise UsageError(f"--output {request.output} is where {image.name} lies: name another folder")
    problem = reserved(image.name) if target.name == CONTACT_SHEET else ""
    return Photo(image.name, image, target, request.mask, request.objects, problem)
