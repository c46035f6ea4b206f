from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bench.errors import DatasetError, SpecError
from bench.protect.prompts import ObjectPrompt, default_region, given_region, make_objects, read_prompts


def test_a_box_holds_the_pixels_from_corner_to_corner() -> None:
    area = ObjectPrompt(box=(1, 2, 3, 4)).area(10, 8)
    assert area.sum() == 9
    assert area[2:5, 1:4].all()
    assert ObjectPrompt(box=(0.5, 0.5, 2.5, 1.5)).area(4, 4).sum() == 2  # pixels 1, 2 of row 1
    assert ObjectPrompt(box=(-5, -5, 100, 100)).area(4, 6).all()
    assert ObjectPrompt(box=(3, 3, 3, 3)).area(4, 4).sum() == 1


@pytest.mark.parametrize("box", [(8, 0, 9, 3), (0, -3, 5, -1), (0.2, 0.2, 0.8, 0.8), (-4, 0, -0.5, 3)])
def test_a_box_without_a_pixel_is_refused(box) -> None:
    with pytest.raises(DatasetError, match="holds no pixel of the image of 8 x 10"):
        ObjectPrompt(box=box).area(10, 8)


def test_points_lie_in_the_image_and_have_no_area() -> None:
    assert ObjectPrompt(points=((0, 0), (7, 9))).area(10, 8) is None
    with pytest.raises(DatasetError, match="point 8,3 lies outside the image of 8 x 10"):
        ObjectPrompt(points=((0, 0), (8, 3))).area(10, 8)


def test_each_box_is_an_object_and_all_points_are_one_more() -> None:
    objects = make_objects([[0, 1, 2, 3], [4, 5, 6, 7]], [[1, 2], [3, 4]], "here")
    assert [item.box for item in objects] == [(0, 1, 2, 3), (4, 5, 6, 7), None]
    assert objects[2].points == ((1, 2), (3, 4))
    assert default_region(objects[:2]) == "box"
    assert default_region(objects) == "predicted"


@pytest.mark.parametrize(
    ("boxes", "points", "message"),
    [
        ([[0, 1, 2]], [], "a box is X0,Y0,X1,Y1"),
        ([[5, 1, 2, 3]], [], "wrong order"),
        ([[0, 5, 2, 3]], [], "wrong order"),
        ([["a", 1, 2, 3]], [], "a box is"),
        ([[0, 1, 2, float("nan")]], [], "a box is"),
        ([], [[1, 2, 3]], "a point is X,Y"),
        ([], [7], "a point is X,Y"),
        ([[True, 0, 1, 1]], [], "a box is"),
    ],
)
def test_malformed_prompts_are_one_line(boxes, points, message) -> None:
    with pytest.raises(SpecError, match=f"here: .*{message}"):
        make_objects(boxes, points, "here")


def test_the_region_of_boxes_is_their_union_unless_it_is_the_image() -> None:
    objects = make_objects([[0, 0, 1, 1], [1, 1, 3, 2]], [], "here")
    union = np.zeros((4, 5), bool)
    union[:2, :2] = union[1:3, 1:4] = True
    assert np.array_equal(given_region(4, 5, objects, "box"), union)
    assert given_region(4, 5, objects, "image").all()
    with pytest.raises(SpecError, match="predicts no region"):
        given_region(4, 5, objects, "predicted")
    with pytest.raises(DatasetError, match="points have no box"):
        given_region(4, 5, make_objects([], [[1, 1]], "here"), "box")


def test_a_prompt_file(tmp_path: Path) -> None:
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps({"a.jpg": {"boxes": [[1, 2, 3, 4]]}, "b/ä.jpg": {"points": [[5, 6]]}}))
    prompts = read_prompts(path)
    assert prompts["a.jpg"][0].box == (1, 2, 3, 4)
    assert prompts["b/ä.jpg"][0].points == ((5, 6),)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot read prompts"),
        ("[]", "write {"),
        ('{"a.jpg": [[1, 2, 3, 4]]}', "'a.jpg': write"),
        ('{"a.jpg": {"box": [1, 2, 3, 4]}}', "'a.jpg': write"),
        ('{"a.jpg": {"boxes": []}}', "one of them is not empty"),
        ('{"a.jpg": {"boxes": [1, 2, 3, 4]}}', "'a.jpg': a box is"),
        ('{"a.jpg": {"boxes": 3}}', "are lists"),
    ],
)
def test_a_malformed_prompt_file_is_one_line_with_the_entry(
    tmp_path: Path, content: str, message: str
) -> None:
    path = tmp_path / "prompts.json"
    path.write_text(content)
    with pytest.raises(SpecError, match=message) as error:
        read_prompts(path)
    assert "\n" not in str(error.value)
    with pytest.raises(SpecError, match="cannot read"):
        read_prompts(tmp_path / "absent.json")
