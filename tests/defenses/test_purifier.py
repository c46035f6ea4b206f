"""The learned purifier: its noise, its training, and that it takes noise away and leaves images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.cli import guarded
from bench.datasets.purified import PurifiedDataset
from bench.datasets.shapes.dataset import Shapes
from bench.errors import EXIT_USAGE, ArtifactCorrupt
from bench.learner import FitContext
from bench.plan import make_plan
from bench.seeds import generator
from bench.spec import Matrix
from bench.store import Store
from defenses import purifier_network
from defenses.purifier import Purifier, PurifierOptions
from defenses.purifier_network import CHECKPOINT, REACH, WEIGHTS, Denoiser, denoise

TINY = {"width": 4, "iterations": 12, "batch_size": 4, "patch": 16}


@pytest.fixture
def scenes(tmp_path: Path) -> Shapes:
    options = Shapes.resolve_options("ci", {"train_images": 6, "val_images": 2})
    dataset = Shapes(tmp_path / "scenes", options)
    dataset.generate()
    return dataset


def context(folder: Path, report: Any = lambda done, total, note: None) -> FitContext:
    for name in ("work", "state"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    return FitContext(folder / "work", folder / "state", 0, "cpu", report)


def test_a_fresh_network_leaves_images_as_they_are() -> None:
    image = generator("purifier").integers(0, 256, (20, 30, 3), dtype=np.uint8)
    np.testing.assert_array_equal(denoise(Denoiser(8, 16.0).eval(), image), image)


@pytest.mark.parametrize("size", [(1, 1), (5, 90), (90, 5), (64, 48)])
def test_bands_of_rows_make_no_difference(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    network = Denoiser(6, 16.0).eval()
    torch.nn.init.normal_(network.layers[-1].weight)
    torch.nn.init.ones_(network.layers[-1].bias)
    image = generator("bands").integers(0, 256, (*size, 3), dtype=np.uint8)
    whole = denoise(network, image)
    assert not np.array_equal(whole, image)
    monkeypatch.setattr(purifier_network, "BAND_PIXELS", 7 * size[1])
    # A value in the middle between two levels may be rounded to either side.
    assert np.abs(denoise(network, image).astype(int) - whole).max() <= 1


def test_the_network_sees_as_far_as_it_says() -> None:
    torch.manual_seed(0)
    network = Denoiser(4, 16.0).eval()
    torch.nn.init.ones_(network.layers[-1].weight)
    image = torch.rand(1, 3, 1, 4 * REACH + 1, requires_grad=True)
    network(image)[0, :, 0, 2 * REACH].sum().backward()
    seen = image.grad[0].abs().sum((0, 1)).nonzero().flatten()  # type: ignore[index]
    assert int(seen.min()) >= REACH and int(seen.max()) <= 3 * REACH


def test_an_interrupted_training_ends_in_the_same_weights(
    scenes: Shapes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    purifier = Purifier(PurifierOptions(**TINY))
    purifier.fit([scenes], context(tmp_path / "whole"))
    monkeypatch.setattr(purifier_network, "CHECKPOINT_SECONDS", 0.0)
    steps: list[int] = []

    def stop(done: int, total: int, note: str) -> None:
        steps.append(done)
        if done == 7:
            raise KeyboardInterrupt

    broken = tmp_path / "broken"
    with pytest.raises(KeyboardInterrupt):
        purifier.fit([scenes], context(broken, stop))
    assert not (broken / "state" / WEIGHTS).exists()
    purifier.fit([scenes], context(broken, stop))
    assert steps == list(range(1, 13))
    whole = (tmp_path / "whole" / "state" / WEIGHTS).read_bytes()
    assert (broken / "state" / WEIGHTS).read_bytes() == whole


def test_a_damaged_checkpoint_is_named(scenes: Shapes, tmp_path: Path) -> None:
    given = context(tmp_path)
    (given.work_dir / CHECKPOINT).write_bytes(b"no checkpoint")
    with pytest.raises(ArtifactCorrupt, match="delete it to train from the start"):
        Purifier(PurifierOptions(**TINY)).fit([scenes], given)


@pytest.mark.slow
def test_it_takes_most_of_the_noise_away(tmp_path: Path) -> None:
    learned_from, unseen = (
        Shapes(tmp_path / name, Shapes.resolve_options("cpu", {"seed": seed, "train_images": 60}))
        for name, seed in (("learned", 2000), ("unseen", 0))
    )
    learned_from.generate()
    unseen.generate()
    purifier = Purifier(PurifierOptions(width=12, iterations=400))
    given = context(tmp_path)
    purifier.fit([learned_from], given)
    network = purifier.load(given.state_dir, "cpu")
    errors: dict[str, list[float]] = {"drowned": [], "denoised": [], "purified": []}
    for image_id in unseen.ids("train")[:20]:
        image = unseen.image("train", image_id)
        drowned = image + generator("noise", image_id).normal(0, 16, image.shape)
        for name, found in (
            ("drowned", drowned),
            ("denoised", denoise(network, drowned)),
            ("purified", purifier.purify(image, network, generator("purify", image_id))),
        ):
            errors[name].append(float(np.mean((found.astype(float) - image) ** 2)) ** 0.5)
    drowned_error, denoised_error, purified_error = (float(np.mean(errors[name])) for name in errors)
    assert abs(drowned_error - 16) < 0.5
    assert denoised_error < 0.8 * drowned_error
    assert abs(purified_error - denoised_error) < 0.5


def test_purified_files_are_written_once(scenes: Shapes, tmp_path: Path) -> None:
    folder = tmp_path / "purified"
    ids = scenes.ids("train")
    seen: list[int] = []

    def purify(image_id: str, image: np.ndarray) -> np.ndarray:
        seen.append(1)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return 255 - image

    with pytest.raises(KeyboardInterrupt):
        PurifiedDataset(scenes, folder).write("train", ids, purify)
    view = PurifiedDataset(scenes, folder)
    view.write("train", ids, purify)
    assert len(seen) == len(ids) + 1
    for split in ("train", "val"):
        assert view.ids(split) == scenes.ids(split)
        for image_id in view.ids(split):
            expected = scenes.image(split, image_id)
            np.testing.assert_array_equal(
                view.image(split, image_id), 255 - expected if split == "train" else expected
            )
            labels = view.annotation(split, image_id).semantic
            np.testing.assert_array_equal(labels, scenes.annotation(split, image_id).semantic)


def plan_of(tmp_path: Path, defense: Any, **changes: Any) -> Any:
    values = {"protectors": ["unseg", "lsp"], "victims": ["unetplusplus", "deeplabv3"], "profile": "ci"}
    return make_plan(
        Matrix(**{**values, "controls": False, "defenses": [defense], **changes}), Store(tmp_path)
    )


def test_all_victims_and_protectors_share_one_purifier(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "purifier")
    fits = {
        next(k for k in ("protector", "defense") if k in s.identity): s
        for s in plan.stages
        if s.kind == "fit"
    }
    assert set(fits) == {"protector", "defense"}
    trains = [stage for stage in plan.stages if stage.kind == "train"]
    assert len(trains) == 4
    assert {stage.inputs["fit"] for stage in trains} == {fits["defense"].key}
    seeds = {name: stage.datasets["fit0"]["options"]["seed"] for name, stage in fits.items()}
    protected = next(s for s in plan.stages if s.kind == "protect").datasets["data"]["options"]["seed"]
    assert len({*seeds.values(), protected}) == 3
    # The protector knows nothing of it.
    others = plan_of(tmp_path, "jpeg")
    assert {s.key for s in others.stages if s.kind == "protect"} == {
        s.key for s in plan.stages if s.kind == "protect"
    }


def test_what_it_learned_from_is_part_of_the_key(tmp_path: Path) -> None:
    elsewhere = {"name": "purifier", "fit_on": [{"name": "shapes", "options": {"seed": 7}}]}
    here, there = (plan_of(tmp_path, d) for d in ("purifier", elsewhere))
    assert not {c.key for c in here.cells} & {c.key for c in there.cells}


def test_a_defense_that_learns_nothing_refuses_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [
        "run",
        "--protector",
        "lsp",
        "--victim",
        "unetplusplus",
        "--profile",
        "ci",
        "--defense",
        "jpeg",
    ]
    command += ["--defense-fit-on", "shapes", "--store", str(tmp_path), "--dry-run"]
    assert guarded(command) == EXIT_USAGE
    assert "defense 'jpeg' learns nothing: it takes no --defense-fit-on" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_purifies_and_records_what_it_learned_from(tmp_path: Path) -> None:
    store = tmp_path / "store"
    options = ["--dataset-option", "train_images=12", "--dataset-option", "val_images=4"]
    command = ["run", "--protector", "lsp", "--no-controls", "--victim", "unetplusplus", "--profile", "ci"]
    command += [*options, "--defense", "purifier", "--defense-option", "iterations=5", "--store", str(store)]
    assert guarded(command) == 0
    (record,) = (json.loads(path.read_text()) for path in store.glob("records/*/record.json"))
    assert record["cell"]["defense"]["fit_on"][0]["options"]["seed"] == 2000
    assert {"defense_fit", "train"} <= set(record["cost"])
    (train,) = (store / "stages" / "train").iterdir()
    assert not (train / "work").exists()
