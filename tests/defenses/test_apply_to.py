"""Defenses that an attacker builds into his network: test images go through them, too; the training is the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.cli import guarded
from bench.plan import Plan, make_plan
from bench.records import read_records
from bench.spec import Matrix, read_matrices
from bench.stages import StageContext, evaluate
from bench.stages.train import training_dataset
from bench.store import Store

BOTH = {"apply_to": "both"}


def plan_of(tmp_path: Path, *defenses: Any) -> Plan:
    values = {"protectors": ["lsp"], "victims": ["unetplusplus"], "profile": "ci", "controls": False}
    return make_plan(Matrix(**values, defenses=list(defenses)), Store(tmp_path))


@pytest.mark.parametrize("name", ["grayscale", "jpeg", "orthogonal_projection", "purifier"])
def test_the_training_is_that_of_the_defense_alone(tmp_path: Path, name: str) -> None:
    plan = plan_of(tmp_path, name, {"name": name, "options": BOTH})
    plain, both = plan.cells
    assert plain.stages["train"] == both.stages["train"]
    assert plain.key != both.key
    stages = {stage.key: stage for stage in plan.stages}
    # What was scored before the option existed keeps its key.
    assert "defense" not in stages[plain.key].identity
    assert ("fit" in stages[both.key].inputs) == (name == "purifier")
    assert (
        plain.cell.defense.options.get("apply_to") is None and both.cell.defense.options["apply_to"] == "both"
    )


def test_there_is_no_such_option_where_every_draw_is_another(tmp_path: Path, capsys) -> None:
    command = ["run", "--protector", "lsp", "--victim", "unetplusplus", "--defense", "noise", "--dry-run"]
    command += ["--defense-option", "apply_to=both", "--profile", "ci", "--store", str(tmp_path)]
    assert guarded(command) == 2
    assert "apply_to" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_scores_what_the_victim_sees(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    file = tmp_path / "both.toml"
    file.write_text(
        """
        profile = "ci"
        controls = false
        protectors = ["lsp"]
        victims = ["unetplusplus"]
        dataset = { name = "shapes", options = { train_images = 12, val_images = 4 } }
        defenses = [
          "grayscale", { name = "grayscale", options = { apply_to = "both" } },
          "orthogonal_projection", { name = "orthogonal_projection", options = { apply_to = "both" } },
          { name = "purifier", options = { iterations = 5, apply_to = "both" } },
        ]
        """
    )
    assert guarded(["matrix", str(file), "--store", str(store.root)]) == 0
    records = {
        (r["cell"]["defense"]["name"], r["cell"]["defense"]["options"].get("apply_to", "train")): r
        for r in read_records(store)
    }
    assert len(records) == 5 and len(list((store.root / "stages" / "train").iterdir())) == 3
    assert all(record["status"] == "done" for record in records.values())
    # The datasets that were scored, made again.
    stages = {stage.key: stage for stage in make_plan(read_matrices(file), store).stages}
    for name in ("grayscale", "orthogonal_projection", "purifier"):
        record = records[name, "both"]
        stage = stages[record["key"]]
        context = StageContext(
            kind="evaluate",
            identity=stage.identity,
            inputs=stage.inputs,
            datasets=stage.datasets,
            store=store,
            folder=tmp_path / name,
            device="cpu",
            loader_workers=0,
            report=lambda done, total, note: None,
        )
        context.folder.mkdir()
        identity = stages[record["stages"]["train"]].identity
        train, val = training_dataset(context, identity), context.dataset("val")
        seen_train, seen_val = evaluate.seen_through_the_defense(context, identity, train, val)
        for plain, seen, split in ((train, seen_train, "train"), (val, seen_val, "val")):
            for image_id in plain.ids(split):  # fewer than evaluate.TRAIN_SAMPLE
                image, found = plain.image(split, image_id), seen.image(split, image_id)
                assert found.shape == image.shape and not np.array_equal(found, image)
                if name == "grayscale":
                    assert (found == found[..., :1]).all()
                labels = plain.annotation(split, image_id).semantic
                np.testing.assert_array_equal(seen.annotation(split, image_id).semantic, labels)
