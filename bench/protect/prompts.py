"""Objects that a person points at instead of giving a mask, and the region that is protected for them.

What is protected (where the budget is `epsilon`) follows from the prompt:

* a **mask** is the region itself, as in the paper;
* a **box** is its own region: the pixels from (x0, y0) to (x1, y1), both included;
* **points** have no region. It is what the protector itself predicts from them, or the whole image.

Each box is one object, and all points together are one more.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from bench.datasets.base import Annotation
from bench.errors import DatasetError, SpecError

Region = Literal["box", "predicted", "image"]
"""`box`: the boxes; `predicted`: what the protector segments at the prompt; `image`: every pixel."""


@dataclass(frozen=True)
class ObjectPrompt:
    """One object, by a box or by points on it, in pixels of the upright image (EXIF orientation applied).

    Attributes:
        box: x0, y0, x1, y1, or None.
        points: x, y of each point; empty for a box.
    """

    box: tuple[float, float, float, float] | None = None
    points: tuple[tuple[float, float], ...] = ()

    def area(self, height: int, width: int) -> np.ndarray | None:
        """The box as `(height, width)` bool; None for points.

        Raises:
            DatasetError: The prompt lies outside an image of this size.
        """
        if self.box is None:
            outside = [(x, y) for x, y in self.points if not (0 <= x < width and 0 <= y < height)]
            if outside:
                raise DatasetError(
                    f"point {outside[0][0]:g},{outside[0][1]:g} lies outside the image of {width} x {height} pixels"
                )
            return None
        x0, y0, x1, y1 = self.box
        area = np.zeros((height, width), bool)
        area[_whole(y0) : math.floor(max(-1, y1)) + 1, _whole(x0) : math.floor(max(-1, x1)) + 1] = True
        if not area.any():
            corners = ",".join(f"{value:g}" for value in self.box)
            raise DatasetError(f"box {corners} holds no pixel of the image of {width} x {height} pixels")
        return area


def make_objects(
    boxes: Sequence[Sequence[float]], points: Sequence[Sequence[float]], where: str
) -> tuple[ObjectPrompt, ...]:
    """Objects from boxes and points as the user writes them.

    Args:
        boxes: x0, y0, x1, y1 of each box.
        points: x, y of each point.
        where: What to name in a message.

    Raises:
        SpecError: A box or point has another number of values, no numbers, or corners in the wrong order.
    """
    objects = []
    for box in boxes:
        x0, y0, x1, y1 = _numbers(box, 4, f"{where}: a box is X0,Y0,X1,Y1")
        if x0 > x1 or y0 > y1:
            raise SpecError(
                f"{where}: box {x0:g},{y0:g},{x1:g},{y1:g} has its corners in the wrong order: "
                "top left first, then bottom right"
            )
        objects.append(ObjectPrompt(box=(x0, y0, x1, y1)))
    if points:
        spots = [_numbers(point, 2, f"{where}: a point is X,Y") for point in points]
        objects.append(ObjectPrompt(points=tuple((x, y) for x, y in spots)))
    return tuple(objects)


def read_prompts(path: Path) -> dict[str, tuple[ObjectPrompt, ...]]:
    """Reads `{"name.jpg": {"boxes": [[x0, y0, x1, y1]], "points": [[x, y]]}}`, names relative to the folder.

    Raises:
        SpecError: The file is missing, no JSON, or an entry is not like this.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SpecError(f"cannot read prompts {path}: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise SpecError(f'prompts {path}: write {{"name.jpg": {{"boxes": [[x0, y0, x1, y1]]}}}}')
    prompts = {}
    for name, entry in content.items():
        where = f"prompts {path}, {name!r}"
        if not isinstance(entry, dict) or not set(entry) <= {"boxes", "points"}:
            raise SpecError(f'{where}: write {{"boxes": [[x0, y0, x1, y1]], "points": [[x, y]]}}')
        boxes, points = (entry.get(kind, []) for kind in ("boxes", "points"))
        if not (isinstance(boxes, list) and isinstance(points, list) and boxes + points):
            raise SpecError(f"{where}: boxes and points are lists, and one of them is not empty")
        prompts[name] = make_objects(boxes, points, where)
    return prompts


def mask_annotation(mask: np.ndarray) -> Annotation:
    """The annotation of one union mask, `(H, W)` bool."""
    return Annotation(mask.astype(np.uint8), (), mask)


def default_region(objects: Sequence[ObjectPrompt]) -> Region:
    """`box` if all objects have one, else `predicted`."""
    return "box" if all(item.box is not None for item in objects) else "predicted"


def given_region(height: int, width: int, objects: Sequence[ObjectPrompt], region: Region) -> np.ndarray:
    """The region that follows from the prompts alone, `(height, width)` bool.

    Raises:
        DatasetError: A prompt lies outside the image, or `region` is `box` and an object has none.
        SpecError: `region` is `predicted`, which only some protectors can do.
    """
    areas = [item.area(height, width) for item in objects]
    if region == "image":
        return np.ones((height, width), bool)
    if region == "predicted":
        raise SpecError("this protector predicts no region: give --region box or --region image")
    boxes = [area for area in areas if area is not None]
    if len(boxes) < len(areas):
        raise DatasetError("points have no box: give --region predicted or --region image")
    return np.logical_or.reduce(boxes)


def _whole(value: float) -> int:
    return max(0, math.ceil(value))


def _numbers(values: Any, count: int, rule: str) -> list[float]:
    numbers = list(values) if isinstance(values, (list, tuple)) else []
    are_numbers = all(type(v) in (int, float) and math.isfinite(v) for v in numbers)
    if len(numbers) != count or not are_numbers:
        raise SpecError(f"{rule}, not {values!r}")
    return [float(value) for value in numbers]
