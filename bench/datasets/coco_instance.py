"""COCO's instance layout: COCO, NWPU VHR-10, SSDD and WHU as RSPrompter has them, LVIS-like exports, your own."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from bench.datasets.base import VOID, Annotation, Category, Segment, Split
from bench.datasets.coco import CocoDataset
from bench.datasets.coco_json import CocoContent, CocoImage, require_instances
from bench.datasets.folder import DatasetFile, write_json
from bench.datasets.resize import nearest, resized_shape


class CocoInstance(CocoDataset):
    """Instances with masks as polygons or run lengths.

    Categories are sorted by their id, which may have gaps, and are all things. A label map is made of the
    masks where a task needs one: smaller objects lie on larger ones, crowds are void, and the rest is background.
    An object whose mask covers no pixel is left out.
    """

    name = "coco_instance"
    summary = "COCO instance json (COCO, NWPU VHR-10, SSDD, WHU); instance, detection, semantic, binary"
    kind = "instances"
    tasks = frozenset({"instance", "detection", "semantic", "binary"})

    @cached_property
    def categories(self) -> tuple[Category, ...]:
        """All categories of the jsons."""
        return tuple(Category(c.name, is_thing=True) for c in self._content["train"].categories)

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Background and the categories."""
        return ("background", *(category.name for category in self.categories))

    def require_content(self, content: CocoContent) -> None:
        """Validates every annotation; see `require_instances`."""
        require_instances(content)

    def annotation(self, split: Split, image_id: str) -> Annotation:
        """Decodes masks; see `Dataset.annotation`."""
        entry = self.entry(split, image_id)
        label_of = {category.number: k for k, category in enumerate(self._content[split].categories)}
        segments = []
        for raw in self.raw_annotations(split, image_id):
            mask = decode_mask(raw["segmentation"], entry.height, entry.width)
            if mask.any():
                x, y, width, height = raw["bbox"]
                box = (x, y, x + width, y + height) if width > 0 and height > 0 else None
                segments.append(Segment(mask, label_of[raw["category_id"]], bool(raw.get("iscrowd")), box))
        semantic = np.zeros((entry.height, entry.width), np.uint8)
        for segment in segments:
            if segment.is_crowd:
                semantic[segment.mask] = VOID
        whole = [segment for segment in segments if not segment.is_crowd]
        for segment in sorted(whole, key=lambda segment: -int(segment.mask.sum())):
            semantic[segment.mask] = segment.category + 1
        return Annotation(semantic, tuple(segments), (semantic != 0) & (semantic != VOID))

    def write_resized_json(self, file: DatasetFile, destination: Path, longest_side: int) -> None:
        """Masks are resized with the nearest neighbour and stored as run lengths; boxes are scaled.

        Objects that lose their last pixel are left out.
        """
        entries = {image.number: image for image in self._content[file.split].images.values()}
        content, kept = self.resized_content(file, longest_side), []
        for annotation in content["annotations"]:
            resized = _resized(annotation, entries[annotation["image_id"]], longest_side)
            if resized:
                kept.append(resized)
        content["annotations"] = kept
        write_json(destination / file.target, content)


def decode_mask(segmentation: Any, height: int, width: int) -> np.ndarray:
    """`(height, width)` bool from polygons (their union) or run lengths, compressed or not."""
    from pycocotools import mask as rle

    if isinstance(segmentation, list):
        code = rle.merge(rle.frPyObjects(segmentation, height, width))
    elif isinstance(segmentation["counts"], list):
        code = rle.frPyObjects(segmentation, height, width)
    else:
        code = segmentation
    return rle.decode(code).astype(bool)


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """Compressed run lengths of a bool mask, as they stand in a json."""
    from pycocotools import mask as rle

    code = rle.encode(np.asfortranarray(mask, np.uint8))
    return {"size": [int(side) for side in code["size"]], "counts": code["counts"].decode("ascii")}


def _resized(annotation: dict[str, Any], image: CocoImage, longest_side: int) -> dict[str, Any] | None:
    height, width = resized_shape(image.height, image.width, longest_side)
    if (height, width) == (image.height, image.width):
        return annotation
    mask = nearest(decode_mask(annotation["segmentation"], image.height, image.width), longest_side)
    if not mask.any():
        return None
    factors = (width / image.width, height / image.height) * 2
    return {
        **annotation,
        "segmentation": encode_mask(mask),
        "area": int(mask.sum()),
        "bbox": [value * factor for value, factor in zip(annotation["bbox"], factors, strict=True)],
    }
