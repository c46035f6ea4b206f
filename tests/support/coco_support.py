"""Small datasets in COCO's layouts, with the traps that real ones hold, written with Pillow and json alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 30, 44
CATEGORIES = ((3, "cat"), (17, "dog"), (90, "tooth brush"), (91, "never seen"))
"""Ids with gaps; the json lists them in another order."""
TRAIN = ("city/a b.jpg", "city/deep/ümlaut.JPG", "dots.in.name.png", "nothing.jpg")
VAL = ("city/v.jpg", "日本.jpg")


def photo(seed: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """`(H, W, 3)` uint8 noise on a gradient."""
    rng = np.random.default_rng(seed)
    gradient = np.linspace(40, 200, width)[None, :, None] + np.zeros((height, width, 3))
    return np.clip(gradient + rng.normal(0, 10, gradient.shape), 0, 255).astype(np.uint8)


def save_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def save_photo(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(photo(seed)).save(path, "PNG" if path.suffix == ".png" else "JPEG")


def rectangle(top: int, left: int, height: int, width: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[top : top + height, left : left + width] = True
    return mask


def run_lengths(mask: np.ndarray) -> list[int]:
    """Uncompressed: lengths of the runs of 0 and 1 by turns, column after column, from the definition."""
    counts, value, length = [], False, 0
    for pixel in mask.T.ravel():
        if pixel != value:
            counts.append(length)
            value, length = pixel, 0
        length += 1
    return [*counts, length]


def compressed(mask: np.ndarray) -> dict[str, Any]:
    from pycocotools import mask as rle

    code = rle.encode(np.asfortranarray(mask, np.uint8))
    return {"size": [HEIGHT, WIDTH], "counts": code["counts"].decode()}


def objects(shift: int) -> list[dict[str, Any]]:
    """A dog of two polygons, a cat over it, a tooth brush in compressed and a crowd in uncompressed run lengths."""
    polygons = [[2 + shift, 2, 12.5 + shift, 2, 12.5 + shift, 10, 2 + shift, 10], [20, 3, 26, 3, 23, 9.5]]
    cat, brush, crowd = rectangle(4, 4 + shift, 4, 5), rectangle(20, 1, 6, 20), rectangle(15, 30, 12, 14)
    uncompressed = {"size": [HEIGHT, WIDTH], "counts": run_lengths(crowd)}
    return [
        {"category_id": 17, "segmentation": polygons, "bbox": [2 + shift, 2, 24 - shift, 8.25], "iscrowd": 0},
        {"category_id": 3, "segmentation": compressed(cat), "bbox": [4.25 + shift, 4, 4.5, 4], "iscrowd": 0},
        {"category_id": 90, "segmentation": compressed(brush), "bbox": [1, 20, 20, 6]},
        {"category_id": 3, "segmentation": uncompressed, "bbox": [30, 15, 14, 12], "iscrowd": 1},
    ]


def instance_json(names: tuple[str, ...], first: int, extra: int = 0) -> dict[str, Any]:
    """The json of a split. `nothing.jpg` has no annotation.

    Args:
        names: File names.
        first: Id of the first image.
        extra: Number that makes annotation ids unlike the image ids.
    """
    images, annotations = [], []
    for index, name in enumerate(names):
        number = first + 7 * index
        images.append({"id": number, "file_name": name, "height": HEIGHT, "width": WIDTH, "license": 1})
        for entry in objects(index) if name != "nothing.jpg" else []:
            area = 10.5 + len(annotations)
            annotations.append(
                {**entry, "id": 100 + extra + len(annotations), "image_id": number, "area": area}
            )
    listed = [{"id": number, "name": name, "supercategory": "x"} for number, name in reversed(CATEGORIES)]
    # Annotations come in no order in real files.
    return {
        "info": {"year": 2017},
        "images": images,
        "annotations": annotations[::-1],
        "categories": listed,
    }


def make_instances(
    root: Path,
    jsons: tuple[str, str] = ("annotations/instances_train2017.json", "annotations/instances_val2017.json"),
    images: tuple[str, str] = ("train2017", "val2017"),
) -> Path:
    """A dataset in COCO's instance layout; returns `root`."""
    for split, (names, first) in enumerate(((TRAIN, 5), (VAL, 1000))):
        save_json(root / jsons[split], instance_json(names, first, 50 * split))
        for index, name in enumerate(names):
            save_photo(root / images[split] / name, 10 * split + index)
    return root


PANOPTIC_CATEGORIES = ((2, "sky", 0), (7, "cat", 1), (40, "road", 0), (41, "dog", 1))


def panoptic_ids(shift: int) -> np.ndarray:
    """Segment ids `(H, W)`: sky above, road below, two cats, a crowd of dogs, a void column. Some need G and B."""
    ids = np.where(np.arange(HEIGHT)[:, None] < 15, 300, 70000) + np.zeros((HEIGHT, WIDTH), int)
    ids[3:12, 3 + shift : 10 + shift] = 5
    ids[18:28, 20:30] = 256
    ids[16:24, 32:42] = 9
    ids[:, 0] = 0
    return ids


def make_panoptic(root: Path) -> Path:
    """A dataset in COCO's panoptic layout; returns `root`."""
    categories = {300: 2, 70000: 40, 5: 7, 256: 7, 9: 41}
    for split, tag in (("train", "train2017"), ("val", "val2017")):
        images, annotations = [], []
        names = ("sub/one.jpg", "two.jpg", "three.jpg") if split == "train" else ("four.jpg",)
        for index, name in enumerate(names):
            ids, number = panoptic_ids(index), 11 + 3 * index
            images.append({"id": number, "file_name": name, "height": HEIGHT, "width": WIDTH})
            png = Path(name).with_suffix(".png").as_posix()
            segments = []
            for value in np.unique(ids[ids > 0]).tolist():
                rows, columns = np.nonzero(ids == value)
                box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
                segments.append(
                    {
                        "id": value,
                        "category_id": categories[value],
                        "area": len(rows),
                        "bbox": [int(v) for v in box],
                        "iscrowd": int(value == 9),
                    }
                )
            annotations.append({"image_id": number, "file_name": png, "segments_info": segments})
            path = root / f"panoptic_{tag}" / png
            path.parent.mkdir(parents=True, exist_ok=True)
            colours = np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)
            Image.fromarray(colours).save(path)
            save_photo(root / tag / name, index + (split == "val") * 10)
        listed = [{"id": n, "name": name, "isthing": thing} for n, name, thing in PANOPTIC_CATEGORIES]
        content = {"images": images, "annotations": annotations, "categories": listed[::-1]}
        save_json(root / f"annotations/panoptic_{tag}.json", content)
    return root
