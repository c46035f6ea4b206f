"""Reads COCO jsons, and says in one line what is wrong with one that other programs would trip over."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from bench.datasets.layout import first_few, normalised, plural
from bench.errors import DatasetError

MAX_CATEGORIES = 254
"""Label maps are uint8 and 255 is void; index 0 may be the background."""

POLYGON_NUMBERS = 6
"""x and y of three points. pycocotools takes a first polygon of four numbers for a box."""

Number = int | float


@dataclass(frozen=True)
class CocoImage:
    """An entry of `images`.

    Attributes:
        number: Its id in the json, a number or a string.
        file_name: As in the json, below the image folder; may hold sub-folders.
        height: Pixels.
        width: Pixels.
    """

    number: Any
    file_name: str
    height: int
    width: int


@dataclass(frozen=True)
class CocoCategory:
    """An entry of `categories`.

    Attributes:
        number: Its id in the json; ids may have gaps.
        name: Its name.
        is_thing: `isthing`; None where the json does not say.
    """

    number: int
    name: str
    is_thing: bool | None


@dataclass(frozen=True)
class CocoContent:
    """A validated json.

    Attributes:
        path: The file.
        images: By image id, the `file_name` without suffix, in the order of the json.
        annotations: The raw annotations of each image by its number, in the order of the json.
        categories: In the order of their ids.
    """

    path: Path
    images: dict[str, CocoImage]
    annotations: dict[Any, list[dict[str, Any]]]
    categories: tuple[CocoCategory, ...]


def image_id_of(file_name: str) -> str:
    """The id of an image: its `file_name` without suffix, so that a change of codec keeps it."""
    return normalised(PurePosixPath(file_name).with_suffix("").as_posix())


def read_coco(path: Path) -> CocoContent:
    """Reads what instance and panoptic jsons have in common.

    Raises:
        DatasetError: The file is missing, no json, or its lists contradict each other.
    """
    content = _read(path)
    images = _images(path, content["images"])
    categories = _categories(path, content["categories"])
    annotations: dict[Any, list[dict[str, Any]]] = {image.number: [] for image in images.values()}
    for position, annotation in enumerate(content["annotations"]):
        number = _field(path, annotation, "image_id", (int, str), f"annotation {position}")
        if number not in annotations:
            raise DatasetError(
                f"{path}: annotation {annotation.get('id', position)} belongs to image {number!r}, which is not "
                "in 'images'; add the image or remove the annotation"
            )
        annotations[number].append(annotation)
    return CocoContent(path, images, annotations, categories)


def require_instances(content: CocoContent) -> None:
    """Validates the annotations of an instance json.

    Raises:
        DatasetError: The first annotation that is malformed, with its id.
    """
    path, known = content.path, {category.number for category in content.categories}
    ids: Counter[Any] = Counter()
    without = []
    for image in content.images.values():
        for annotation in content.annotations[image.number]:
            number = _field(path, annotation, "id", (int, str), f"annotation of image {image.number!r}")
            where = f"annotation {number}"
            ids[number] += 1
            _require_category(path, annotation, known, where)
            _require_box(path, annotation, where)
            if annotation.get("segmentation"):
                _require_segmentation(path, annotation["segmentation"], image, where)
            else:
                without.append(str(number))
    _require_unique(path, ids, "annotation id")
    if without:
        raise DatasetError(
            f"{path}: {plural(len(without), 'annotation')} without segmentation: {first_few(without)}; "
            "masks are what is protected and scored, boxes alone do not give them"
        )


def require_panoptic(content: CocoContent) -> None:
    """Validates the annotations of a panoptic json.

    Raises:
        DatasetError: The first entry that is malformed, with its place.
    """
    path, known = content.path, {category.number for category in content.categories}
    unsaid = [category.name for category in content.categories if category.is_thing is None]
    if unsaid:
        raise DatasetError(
            f"{path}: {plural(len(unsaid), 'category entry')} without 'isthing': {first_few(unsaid)}; "
            "write 1 for things and 0 for stuff"
        )
    for image_id, image in content.images.items():
        entries = content.annotations[image.number]
        if len(entries) != 1:
            raise DatasetError(
                f"{path}: image '{image_id}' has {len(entries)} annotations; a panoptic json has one per image"
            )
        where = f"annotation of image '{image_id}'"
        require_inside(path, _field(path, entries[0], "file_name", (str,), where), where)
        segments: Counter[Any] = Counter()
        for segment in _field(path, entries[0], "segments_info", (list,), where):
            segments[_field(path, segment, "id", (int,), f"segment in the {where}")] += 1
            _require_category(path, segment, known, f"segment {segment['id']} of image '{image_id}'")
        _require_unique(path, segments, f"segment id of image '{image_id}'")


def require_inside(path: Path, file_name: str, where: str) -> None:
    """Raises a `DatasetError` if a `file_name` leads out of its folder."""
    parts = PurePosixPath(file_name)
    if not file_name or parts.is_absolute() or ".." in parts.parts:
        raise DatasetError(
            f"{path}: {where} has file_name {file_name!r}; it must be a path below the folder of the images"
        )
    if "\\" in file_name:
        raise DatasetError(f"{path}: {where} has file_name {file_name!r}; write / between folders")


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"), parse_constant=_refuse)
    except FileNotFoundError:
        raise DatasetError(f"{path} is missing; put the json of the annotations there") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DatasetError(f"{path} is no readable json: {error}; download or export it again") from None
    names = ("images", "annotations", "categories")
    missing = [n for n in names if not isinstance(content, dict) or not isinstance(content.get(n), list)]
    if missing:
        raise DatasetError(f"{path} has no list {first_few(missing)}; a COCO json has {', '.join(names)}")
    for name in names:
        if not all(isinstance(entry, dict) for entry in content[name]):
            raise DatasetError(f"{path}: '{name}' holds something that is no object; export it again")
    return content


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not part of json")


def _images(path: Path, entries: list[dict[str, Any]]) -> dict[str, CocoImage]:
    images: dict[str, CocoImage] = {}
    numbers: Counter[Any] = Counter()
    for position, entry in enumerate(entries):
        number = _field(path, entry, "id", (int, str), f"image {position}")
        where = f"image {number!r}"
        file_name = _field(path, entry, "file_name", (str,), where)
        require_inside(path, file_name, where)
        height, width = (_field(path, entry, side, (int,), where) for side in ("height", "width"))
        image_id = image_id_of(file_name)
        if image_id in images:
            raise DatasetError(
                f"{path}: images {images[image_id].number!r} and {number!r} are both '{image_id}'; "
                "file names must differ in more than their suffix"
            )
        numbers[number] += 1
        images[image_id] = CocoImage(number, file_name, height, width)
    if not images:
        raise DatasetError(f"{path} names no image; name the images of the split in it")
    _require_unique(path, numbers, "image id")
    return images


def _categories(path: Path, entries: list[dict[str, Any]]) -> tuple[CocoCategory, ...]:
    categories = []
    for position, entry in enumerate(entries):
        number = _field(path, entry, "id", (int,), f"category {position}")
        name = _field(path, entry, "name", (str,), f"category {number}")
        is_thing = entry.get("isthing")
        categories.append(CocoCategory(number, name, None if is_thing is None else bool(is_thing)))
    if not 1 <= len(categories) <= MAX_CATEGORIES:
        raise DatasetError(
            f"{path} has {len(categories)} categories; label maps hold 1 to {MAX_CATEGORIES}: "
            "leave out those that you do not need"
        )
    _require_unique(path, (category.number for category in categories), "category id")
    _require_unique(path, (category.name for category in categories), "category name")
    return tuple(sorted(categories, key=lambda category: category.number))


def _field(path: Path, entry: dict[str, Any], name: str, types: tuple[type, ...], where: str) -> Any:
    value = entry.get(name)
    # True is an int to Python, and an id to nobody.
    if not isinstance(value, types) or isinstance(value, bool):
        found = "is missing" if name not in entry else f"is {json.dumps(value)[:40]}"
        wanted = " or ".join(
            {"int": "a whole number", "str": "a string", "list": "a list"}[t.__name__] for t in types
        )
        raise DatasetError(f"{path}: '{name}' of {where} {found}; it must be {wanted}")
    return value


def _require_unique(path: Path, values: Iterable[Any], what: str) -> None:
    counts = values if isinstance(values, Counter) else Counter(values)
    twice = [str(value) for value, count in counts.items() if count > 1]
    if twice:
        raise DatasetError(f"{path} has a {what} more than once: {first_few(twice)}; make them unique")


def _require_category(path: Path, entry: dict[str, Any], known: set[int], where: str) -> None:
    category = _field(path, entry, "category_id", (int,), where)
    if category not in known:
        raise DatasetError(
            f"{path}: {where} has category {category}, which is not in 'categories'; add or correct it"
        )


def _require_box(path: Path, annotation: dict[str, Any], where: str) -> None:
    """Other programs need the box, so an annotation without one is refused rather than completed."""
    box = annotation.get("bbox")
    if not _is_numbers(box) or len(box) != 4:
        raise DatasetError(f"{path}: 'bbox' of {where} is {str(box)[:60]}; it must be [x, y, width, height]")


def _require_segmentation(path: Path, segmentation: Any, image: CocoImage, where: str) -> None:
    if isinstance(segmentation, list):
        for polygon in segmentation:
            if not _is_numbers(polygon) or len(polygon) < POLYGON_NUMBERS or len(polygon) % 2:
                raise DatasetError(
                    f"{path}: a polygon of {where} is {str(polygon)[:60]}; it must be a list "
                    "[x1, y1, x2, y2, x3, y3, ...] of at least three points"
                )
        return
    if not isinstance(segmentation, dict) or not isinstance(segmentation.get("counts"), (list, str)):
        raise DatasetError(f"{path}: the segmentation of {where} is neither polygons nor run lengths")
    if segmentation.get("size") != [image.height, image.width]:
        raise DatasetError(
            f"{path}: the run lengths of {where} are for size {segmentation.get('size')}, its image has "
            f"[{image.height}, {image.width}]; export them again"
        )
    counts = segmentation["counts"]
    if isinstance(counts, list) and (
        not all(type(n) is int and n >= 0 for n in counts) or sum(counts) != image.height * image.width
    ):
        raise DatasetError(
            f"{path}: the run lengths of {where} do not add up to its image of {image.height} x {image.width}"
        )


def _is_numbers(values: Any) -> bool:
    return isinstance(values, list) and all(
        isinstance(v, Number) and not isinstance(v, bool) and math.isfinite(v) for v in values
    )
