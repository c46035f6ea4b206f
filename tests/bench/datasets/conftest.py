"""Small datasets in the public layouts, written with Pillow alone."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.datasets.hqseg44k import TRAIN_SETS, VAL_SETS
from bench.datasets.imageio import read_rgb, write_jpeg95, write_png
from bench.datasets.shapes.dataset import Shapes

IDS = ("2007_000032", "with space", "ümlaut", "日本", "dots.in.name", "z_last")
TRAIN, VAL = IDS[:4], IDS[4:]
HEIGHT, WIDTH = 30, 44


def photo(seed: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """`(H, W, 3)` uint8 noise on a gradient."""
    rng = np.random.default_rng(seed)
    gradient = np.linspace(40, 200, width)[None, :, None] + np.zeros((height, width, 3))
    return np.clip(gradient + rng.normal(0, 10, gradient.shape), 0, 255).astype(np.uint8)


def blob(seed: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """`(H, W)` bool, one rectangle."""
    rng = np.random.default_rng(1000 + seed)
    top, left = rng.integers(2, height // 2), rng.integers(2, width // 2)
    mask = np.zeros((height, width), bool)
    mask[top : top + 10, left : left + 15] = True
    return mask


def save_palette(path: Path, indices: np.ndarray) -> None:
    """A palette PNG with colours that have nothing to do with the indices."""
    image = Image.fromarray(indices.astype(np.uint8))
    image.putpalette(bytes((7 * i + 3) % 256 for i in range(768)))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def save_image(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **({"quality": 92} if path.suffix == ".jpg" else {}))


def save_list(path: Path, ids: tuple[str, ...]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{image_id}\n" for image_id in ids), encoding="utf-8")


def make_voc(root: Path, objects: bool = True) -> Path:
    """Six images of a cat (8), a dog (12) and a void row in `root/VOCdevkit/VOC2012`, which is returned."""
    folder = root / "VOCdevkit/VOC2012"
    for number, image_id in enumerate(IDS):
        # File names are decomposed, as macOS writes them, and the lists composed.
        name = unicodedata.normalize("NFD", image_id)
        first, second = blob(number), np.zeros((HEIGHT, WIDTH), bool)
        second[22:28, 36:42] = True
        border = np.zeros_like(first)
        border[1, :] = True
        semantic = np.where(first, 8, 0) + np.where(second & ~first, 12, 0)
        semantic[border] = 255
        instances = np.where(first, 1, 0) + np.where(second & ~first, 2, 0)
        instances[border] = 255
        save_image(folder / f"JPEGImages/{name}.jpg", photo(number))
        save_palette(folder / f"SegmentationClass/{name}.png", semantic)
        if objects:
            save_palette(folder / f"SegmentationObject/{name}.png", instances)
    for name, ids in (("train", TRAIN), ("val", VAL), ("trainval", IDS)):
        save_list(folder / f"ImageSets/Segmentation/{name}.txt", ids)
    return folder


def make_pairs(folder: Path, images: str = "images", masks: str = "masks", lists: bool = True) -> Path:
    """Six JPEG images with JPEG masks, as Kvasir-SEG has them; returns `folder`."""
    for number, image_id in enumerate(IDS):
        save_image(folder / images / f"{image_id}.jpg", photo(number))
        save_image(folder / masks / f"{image_id}.jpg", np.where(blob(number), 255, 0).astype(np.uint8))
    if lists:
        save_list(folder / "train.txt", TRAIN)
        save_list(folder / "val.txt", VAL)
    return folder


def make_hqseg44k(root: Path) -> Path:
    """Two images in each of the eleven sets of HQSeg-44K, where its authors' archives put them; returns `root`."""
    for sets in (TRAIN_SETS, VAL_SETS):
        for number, (images, masks) in enumerate(sets.values()):
            for image_id in IDS[number % 4 : number % 4 + 2]:
                seed = 10 * number + IDS.index(image_id)
                save_image(root / images / f"{image_id}.jpg", photo(seed))
                save_image(root / masks / f"{image_id}.png", blob(seed) * np.uint8(255))
    return root


def png_writer(image_id: str, source: Path, target: Path) -> Path:
    """What the protect stage does, with a visible change."""
    target = target.with_suffix(".png")
    write_png(target, 255 - read_rgb(source))
    return target


def jpeg_writer(image_id: str, source: Path, target: Path) -> Path:
    target = target.with_suffix(".jpg")
    write_jpeg95(target, 255 - read_rgb(source))
    return target


def tree_hash(root: Path) -> dict[str, str]:
    """sha256 of every file below `root` by relative path."""
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


class Tools:
    """The functions of this file: test modules cannot import it."""

    ids, train, val, height, width = IDS, TRAIN, VAL, HEIGHT, WIDTH
    photo = staticmethod(photo)
    blob = staticmethod(blob)
    save_palette = staticmethod(save_palette)
    save_image = staticmethod(save_image)
    save_list = staticmethod(save_list)
    make_voc = staticmethod(make_voc)
    make_pairs = staticmethod(make_pairs)
    make_hqseg44k = staticmethod(make_hqseg44k)
    png_writer: Callable = staticmethod(png_writer)
    jpeg_writer: Callable = staticmethod(jpeg_writer)
    tree_hash = staticmethod(tree_hash)


@pytest.fixture(scope="session")
def tools() -> type[Tools]:
    return Tools


@pytest.fixture(scope="session")
def shapes(tmp_path_factory) -> Shapes:
    """The `ci` dataset, drawn once; tests must not change it."""
    dataset = Shapes(tmp_path_factory.mktemp("drawn") / "shapes", Shapes.resolve_options("ci", {}))
    dataset.generate()
    return dataset
