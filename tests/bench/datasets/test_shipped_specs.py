"""The specs of the paper's tables and figures: every one is planned, on data in the layouts that they name."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from ade20k_support import make_ade20k
from cityscapes_support import make_cityscapes
from coco_support import make_instances, make_panoptic

from bench.plan import make_plan
from bench.spec import read_matrices
from bench.store import Store
from bench.victim import Victim

SPECS = Path(__file__).parents[3] / "specs"
PAPER, CPU = (sorted((SPECS / profile).glob("*.toml")) for profile in ("paper", "cpu"))
TABLES = {f"table{number:02}" for number in (2, 3, 4, 5, 6, 7, 9, 11)}
FIGURES = {f"figure{name}" for name in ("03", "04", "05a", "05b", "05c")}
OWN = {"readme", "countermeasures", "countermeasures_photographs"}
"""Tables that are ours and not the paper's."""
PHOTOGRAPHS = SPECS / "cpu" / "countermeasures_photographs.toml"
"""The one at `cpu` size that wants data."""


@pytest.fixture(scope="module")
def data(tools, tmp_path_factory) -> Path:
    """A small data set in each of the folders that the paper's specs name; returns the folder above."""
    above = tmp_path_factory.mktemp("checkout")
    data = above / "data"
    voc = tools.make_voc(data)
    shutil.copytree(voc / "SegmentationClass", voc / "SegmentationClassAug")
    tools.save_list(voc / "ImageSets/Segmentation/train_aug.txt", tools.train)
    make_ade20k(data, with_instances=True)
    make_cityscapes(data / "cityscapes", with_instances=True)
    make_instances(data / "coco")
    make_panoptic(data / "coco")
    for name, stem in (("NWPU", "NWPU_instances"), ("SSDD", "SSDD_instances")):
        jsons = tuple(f"annotations/{stem}_{split}.json" for split in ("train", "val"))
        make_instances(data / name, jsons, ("imgs", "imgs"))
    jsons = tuple(f"annotations/WHU_building_{split}.json" for split in ("train", "test"))
    make_instances(data / "WHU", jsons, ("imgs/train/image", "imgs/test/image"))
    tools.make_hqseg44k(data / "sam-hq-training")
    tools.make_pairs(data / "Kvasir-SEG")
    for name in ("SOD", "WeizmannHorse"):
        tools.make_pairs(data / "saliency" / name, "im", "gt")
    lung = tools.make_pairs(data / "lung", "CXR_png", "masks", lists=False)
    (lung / "masks" / f"{tools.train[0]}.jpg").unlink()
    shutil.copytree(SPECS, above / "specs")
    return above


def test_every_table_and_figure_has_a_spec_of_both_sizes() -> None:
    assert {path.stem for path in PAPER} == TABLES | FIGURES | {"countermeasures"}
    assert {path.stem for path in CPU} == TABLES | FIGURES | OWN


@pytest.mark.parametrize("path", PAPER, ids=lambda path: path.stem)
def test_the_papers_specs_are_planned(path: Path, data: Path, tmp_path: Path, monkeypatch) -> None:
    # Whether pretrained weights are there is a question of the machine.
    monkeypatch.setattr(Victim, "check", lambda self, init: None)
    matrices = read_matrices(data / "specs" / "paper" / path.name)
    plan = make_plan(matrices, Store(tmp_path))
    assert {matrix.profile for matrix in matrices} == {"paper"}
    assert all(matrix.seeds == (0, 1, 2) and matrix.controls for matrix in matrices)
    labels = {cell.label for cell in plan.cells}
    assert "clean" in labels and any(label.startswith("unseg") for label in labels)
    assert sum(label.startswith("random") for label in labels) >= 2
    generators = [s for s in plan.stages if s.kind == "fit" and s.identity.get("protector") == "unseg"]
    assert generators
    for stage in generators:  # they learn from HQSeg-44K and from nothing else
        assert [opening["name"] for opening in stage.datasets.values()] == ["hqseg44k"]


@pytest.mark.parametrize("path", [path for path in CPU if path != PHOTOGRAPHS], ids=lambda path: path.stem)
def test_specs_that_run_here_are_planned_and_say_what_they_leave_out(path: Path, tmp_path: Path) -> None:
    matrices = read_matrices(path)
    plan = make_plan(matrices, Store(tmp_path))
    assert {(matrix.profile, matrix.dataset.name) for matrix in matrices} == {("cpu", "shapes")}
    labels = {cell.label for cell in plan.cells}
    assert "clean" in labels and any(label.startswith("unseg") for label in labels)
    if path.stem not in ("readme", "figure03"):
        assert "Left out" in path.read_text(encoding="utf-8")


def test_photographs_are_planned_with_generator_and_purifier_that_never_saw_them(
    data: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(Victim, "check", lambda self, init: None)
    plan = make_plan(read_matrices(data / PHOTOGRAPHS.relative_to(SPECS.parent)), Store(tmp_path))
    fits = [
        sorted(o["name"] for o in stage.datasets.values()) for stage in plan.stages if stage.kind == "fit"
    ]
    assert sorted(fits) == [["image_mask"], ["image_mask", "shapes"], ["shapes"]]
    assert {cell.cell.dataset.name for cell in plan.cells} == {"voc", "image_mask"}
    assert {cell.cell.victim.name for cell in plan.cells} == {"unetplusplus", "deeplabv3", "deeplabv3plus"}


def test_the_same_trainings_are_run_once(tmp_path: Path) -> None:
    shared = [path for path in CPU if path.stem not in OWN]
    together = make_plan([m for path in shared for m in read_matrices(path)], Store(tmp_path))
    apart = [make_plan(read_matrices(path), Store(tmp_path)) for path in shared]
    assert set(together.tables) == {path.stem for path in shared}
    assert len(together.cells) < sum(len(plan.cells) for plan in apart) - 20
