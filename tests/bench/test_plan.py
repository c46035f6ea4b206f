from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench.errors import SpecError, UnknownName
from bench.plan import FIT_SERIES, Plan, make_plan
from bench.spec import Matrix, validated
from bench.store import Store


def plan_of(tmp_path: Path, **changes: Any) -> Plan:
    values = {"protectors": ["random"], "victims": ["unetplusplus"], "profile": "ci", **changes}
    return make_plan(validated(Matrix, values, "test"), Store(tmp_path / "store"))


def keys(plan: Plan) -> set[str]:
    return {cell.key for cell in plan.cells}


def test_a_run_has_a_clean_and_two_random_controls(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, protectors=["unseg"])
    labels = [cell.label for cell in plan.cells]
    assert labels[0] == "clean"
    assert labels[1].startswith("random 8/255 uniform")
    assert labels[2].startswith("random 8/255 mask, 2/255 outside")
    assert labels[3] == "unseg 8/255 mask, 2/255 outside"


def test_stages_come_after_what_they_read(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, protectors=["unseg"], seeds=[0, 1], defenses=["none", "jpeg"])
    seen: set[str] = set()
    for stage in plan.stages:
        assert set(stage.inputs.values()) <= seen
        seen.add(stage.key)


def test_victims_share_protected_data_and_seeds_share_clean_data(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, victims=["unetplusplus", "deeplabv3"], seeds=[0, 1])
    kinds = [stage.kind for stage in plan.stages]
    assert kinds.count("data") == 1
    assert kinds.count("protect") == 1 + 2 * 2  # clean once, two random budgets for two seeds
    assert kinds.count("train") == kinds.count("evaluate") == 3 * 2 * 2
    assert len(plan.cells) == 12


def test_the_generator_never_sees_the_protected_scenes(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, protectors=["unseg"])
    drawn = [s for s in plan.stages if s.kind == "data"]
    seeds = sorted(s.identity["options"]["seed"] for s in drawn)
    assert seeds == [0, FIT_SERIES["protector"]]


@pytest.mark.parametrize(
    "change",
    [
        {"seeds": [1]},
        {"codec": "jpeg95"},
        {"profile": "cpu"},
        {"protectors": [{"name": "random", "budget": {"epsilon": 4}}]},
        {"protectors": [{"name": "random", "options": {"distribution": "uniform"}}]},
        {"protectors": ["lsp"]},
        {"victims": ["deeplabv3"]},
        {"victims": [{"name": "unetplusplus", "task": "binary"}]},
        {"victims": [{"name": "unetplusplus", "options": {"iterations": 7}}]},
        {"defenses": ["jpeg"]},
        {"clean_ratios": [0.2]},
        {"dataset": {"name": "shapes", "options": {"seed": 5}}},
        {"dataset": {"name": "shapes", "options": {"train_images": 13}}},
    ],
    ids=str,
)
def test_whatever_can_change_a_result_changes_its_key(tmp_path: Path, change: dict[str, Any]) -> None:
    base = plan_of(tmp_path, controls=False)
    assert not keys(base) & keys(plan_of(tmp_path, controls=False, **change))


def test_every_share_of_clean_images_has_its_rows_and_the_clean_control_is_whole(tmp_path: Path) -> None:
    plain, mixed = plan_of(tmp_path), plan_of(tmp_path, clean_ratios=[0.2, 0.5])
    labels = [cell.label for cell in mixed.cells]
    assert labels == [
        "clean",
        *(
            label
            for share in (20, 50)
            for label in (
                f"clean only, {share} % of the images",
                f"random 8/255 uniform; {share} % clean",
                f"random 8/255 mask, 2/255 outside; {share} % clean",
            )
        ),
    ]
    assert keys(plain) & keys(mixed) == {mixed.cells[0].key}
    # What is protected is the same whatever is mixed in.
    assert [s for s in mixed.stages if s.kind == "protect"] == [
        s for s in plain.stages if s.kind == "protect"
    ]
    bare = plan_of(tmp_path, controls=False, clean_ratios=[0, 0.2])
    assert [cell.label for cell in bare.cells] == [
        "random 8/255 mask, 2/255 outside",
        "random 8/255 mask, 2/255 outside; 20 % clean",
    ]


def test_matrices_of_one_table_share_their_stages(tmp_path: Path) -> None:
    values = {"protectors": ["unseg"], "profile": "ci", "name": "table"}
    victims = (["unetplusplus"], ["deeplabv3"], ["unetplusplus", "deeplabv3"])
    matrices = [validated(Matrix, {**values, "victims": names}, "test") for names in victims]
    several = make_plan(matrices, Store(tmp_path))
    whole = make_plan(matrices[2], Store(tmp_path))
    assert several.tables == {"table": tuple(cell.key for cell in several.cells)}
    assert {cell.key for cell in several.cells} == keys(whole) and len(several.cells) == len(whole.cells)
    assert {s.id for s in several.stages} == {s.id for s in whole.stages}
    assert len(several.stages) == len(whole.stages)
    seen: set[str] = set()
    for stage in several.stages:
        assert set(stage.inputs.values()) <= seen
        seen.add(stage.key)


def test_keys_know_neither_place_nor_name(tmp_path: Path) -> None:
    for root in (tmp_path / "a", tmp_path / "b" / "ünïcode folder"):
        for split, count in (("train", 3), ("val", 2)):
            for kind in ("images", "masks"):
                (root / kind / split).mkdir(parents=True)
            for i in range(count):
                pixels = np.random.default_rng([i, split == "val"]).integers(
                    0, 255, (20, 24, 3), dtype=np.uint8
                )
                Image.fromarray(pixels).save(root / "images" / split / f"{i}.png")
                Image.fromarray((pixels[..., 0] > 99).astype(np.uint8) * 255).save(
                    root / "masks" / split / f"{i}.png"
                )
    plans = [
        plan_of(tmp_path / "s1", dataset={"name": "image_mask", "root": tmp_path / "a"}),
        plan_of(
            tmp_path / "s2",
            dataset={"name": "image_mask", "root": tmp_path / "b" / "ünïcode folder"},
            name="other",
        ),
    ]
    assert keys(plans[0]) == keys(plans[1])
    changed = tmp_path / "a" / "masks" / "train" / "0.png"
    Image.fromarray(np.full((20, 24), 255, np.uint8)).save(changed)
    assert not keys(plan_of(tmp_path / "s1", dataset={"name": "image_mask", "root": tmp_path / "a"})) & keys(
        plans[0]
    )


def test_the_background_epsilon_of_a_uniform_budget_is_not_read(tmp_path: Path) -> None:
    budgets = [{"kind": "uniform", "epsilon": 8, "epsilon_background": b} for b in (0, 3)]
    plans = [plan_of(tmp_path, protectors=[{"name": "random", "budget": b}], controls=False) for b in budgets]
    assert keys(plans[0]) == keys(plans[1])


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"protectors": ["unsge"]}, UnknownName, "did you mean unseg"),
        ({"victims": ["maskformer"]}, UnknownName, "did you mean mask2former"),
        ({"defenses": ["jpg"]}, UnknownName, "did you mean jpeg"),
        ({"dataset": "shape"}, UnknownName, "did you mean shapes"),
        ({"dataset": "voc"}, SpecError, "--data-root"),
        ({"dataset": {"name": "shapes", "root": "x"}}, SpecError, "takes no --data-root"),
        ({"dataset": {"name": "shapes", "image_size": 32}}, SpecError, "option image_size"),
        ({"victims": [{"name": "unetplusplus", "task": "panoptic"}]}, SpecError, "has no task 'panoptic'"),
        ({"victims": [{"name": "unetplusplus", "init": "sam"}]}, SpecError, "has no init 'sam'"),
        ({"protectors": [{"name": "lsp", "fit_on": [{"name": "shapes"}]}]}, SpecError, "learns nothing"),
        ({"protectors": [{"name": "random", "options": {"grd": 3}}]}, SpecError, "did you mean grid"),
        (
            {"victims": [{"name": "unetplusplus", "options": {"iteration": 3}}]},
            SpecError,
            "did you mean iterations",
        ),
        ({"defenses": [{"name": "jpeg", "options": {"qualty": 3}}]}, SpecError, "did you mean quality"),
        ({"dataset": {"name": "shapes", "options": {"sede": 3}}}, SpecError, "did you mean seed"),
        ({"protectors": [{"name": "random", "options": {"grid": -3}}]}, SpecError, "grid"),
    ],
    ids=lambda v: str(v) if isinstance(v, dict) else "",
)
def test_mistakes_are_named_before_anything_is_computed(
    tmp_path: Path, change: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        plan_of(tmp_path, **change)
