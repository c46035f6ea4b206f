"""The trainer: determinism, resumption, failures, and where the defense acts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from training_support import Identity, MemoryShapes, recipe_of

from bench.datasets.base import Split
from bench.defense import Defense
from bench.errors import ArtifactCorrupt, ContractViolation, DatasetError, EnvironmentFault, TrainingDiverged
from bench.training.checkpoint import CHECKPOINT_NAME, WEIGHTS_NAME, read_checkpoint
from bench.training.inference import predict
from bench.training.trainer import TrainResult, train
from victims.deeplab import DeepLabV3
from victims.unetplusplus import UNetPlusPlus

TINY = {"iterations": 6, "batch_size": 2}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def run(
    folder: Path, victim: Any = UNetPlusPlus, options: Any = TINY, defense: Any = None, **settings: Any
) -> TrainResult:
    dataset = settings.pop("dataset", None) or MemoryShapes()
    recipe = recipe_of(victim, MemoryShapes(), "semantic", **options)
    return train(recipe, dataset, defense or Identity(), folder, **({"seed": 3, "device": "cpu"} | settings))


def same_weights(left: Path, right: Path) -> bool:
    first, second = load_file(left), load_file(right)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_a_repeated_training_gives_the_same_weights_and_another_seed_others(tmp_path: Path) -> None:
    first, second = run(tmp_path / "a"), run(tmp_path / "b")
    other = run(tmp_path / "c", seed=4)
    assert same_weights(first.weights, second.weights)
    assert not same_weights(first.weights, other.weights)


def test_it_leaves_weights_and_a_curve_and_nothing_else(tmp_path: Path) -> None:
    notes: list[tuple[int, int, str]] = []
    result = run(tmp_path, report=lambda *note: notes.append(note))
    assert [path.name for path in tmp_path.iterdir()] == [WEIGHTS_NAME]
    assert [row["iteration"] for row in result.curve] == [1, 2, 3, 4, 5, 6]
    assert all(row["lr"] > 0 and row["loss"] > 0 and row["seconds"] > 0 for row in result.curve)
    assert notes[-1][:2] == (6, 6) and notes[-1][2].startswith("loss ")
    assert 0 < result.seconds < 60


def test_it_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run(tmp_path, DeepLabV3)
    assert capfd.readouterr() == ("", "")


SGD = {"optimizer": "sgd", "learning_rate": 0.01, "head_rate_factor": 10.0}


@pytest.mark.parametrize(("victim", "options"), [(UNetPlusPlus, TINY), (DeepLabV3, TINY | SGD)])
def test_going_on_after_an_interruption_changes_no_bit(tmp_path: Path, victim: Any, options: Any) -> None:
    whole = run(tmp_path / "whole", victim, options)

    calls = iter(range(100))

    class Stopping(Identity):
        def transform(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
            if next(calls) == 7:  # the fourth batch
                raise KeyboardInterrupt
            return image

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", victim, options, defense=Stopping())
    assert [path.name for path in (tmp_path / "parts").iterdir()] == [CHECKPOINT_NAME]
    resumed = run(tmp_path / "parts", victim, options)
    assert same_weights(whole.weights, resumed.weights)
    assert [(row["iteration"], row["loss"], row["lr"]) for row in resumed.curve] == [
        (row["iteration"], row["loss"], row["lr"]) for row in whole.curve
    ]


@pytest.mark.slow
def test_a_killed_training_goes_on_from_its_last_checkpoint(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole", options=TINY | {"iterations": 40})
    parts = tmp_path / "parts"
    script = (
        f"import sys, torch; sys.path[:0] = {sys.path!r}\n"
        "torch.set_num_threads(1)\n"
        "from pathlib import Path; from training_support import *\n"
        "from victims.unetplusplus import UNetPlusPlus; from bench.training.trainer import train\n"
        "data = MemoryShapes()\n"
        "recipe = recipe_of(UNetPlusPlus, data, 'semantic', iterations=40, batch_size=2)\n"
        f"train(recipe, data, Identity(), Path({str(parts)!r}), seed=3, device='cpu', checkpoint_every=4)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], env=os.environ | {"OMP_NUM_THREADS": "1"})
    while not (parts / CHECKPOINT_NAME).exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert not (parts / WEIGHTS_NAME).exists(), "it was killed too late to test anything"
    assert same_weights(whole.weights, run(parts, options=TINY | {"iterations": 40}).weights)


def test_a_signal_waits_for_the_end_of_the_iteration(tmp_path: Path) -> None:
    """The signal arrives while an optimizer steps; the checkpoint still holds whole iterations."""
    whole = run(tmp_path / "whole")
    step, steps = torch.optim.AdamW.step, iter(range(100))

    def stepping(self: Any, *args: Any, **kwargs: Any) -> Any:
        if next(steps) == 2:
            signal.raise_signal(signal.SIGINT)
        return step(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(torch.optim.AdamW, "step", stepping)
        patch.setattr("bench.training.hooks.CHECKPOINT_SECONDS", 0.0)
        run(tmp_path / "parts")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    identity = {"seed": 3, "iterations": 6, "batch_size": 2, "images": 6}
    content = read_checkpoint(tmp_path / "parts" / CHECKPOINT_NAME, identity)
    assert content is not None and content["progress"].iteration == 3
    assert same_weights(whole.weights, run(tmp_path / "parts").weights)


def test_it_trains_outside_the_main_thread(tmp_path: Path) -> None:
    results: list[TrainResult] = []
    thread = threading.Thread(target=lambda: results.append(run(tmp_path)))
    thread.start()
    thread.join()
    assert results and results[0].weights.exists()


@pytest.mark.slow
def test_loading_processes_change_no_bit(tmp_path: Path) -> None:
    assert same_weights(run(tmp_path / "a").weights, run(tmp_path / "b", workers=2).weights)


class CrashingInWorkers(MemoryShapes):
    """Kills the process that loads it, unless that is the main one."""

    def image(self, split: Split, image_id: str) -> np.ndarray:
        if torch.utils.data.get_worker_info() is not None:
            os._exit(1)
        return super().image(split, image_id)


@pytest.mark.slow
def test_crashed_loading_processes_are_replaced_by_none_and_noted(tmp_path: Path) -> None:
    result = run(tmp_path / "a", dataset=CrashingInWorkers(), workers=1)
    assert "crashed" in result.notes[0]
    assert same_weights(result.weights, run(tmp_path / "b").weights)


class Unreadable(MemoryShapes):
    """Its fourth training image is damaged."""

    def image(self, split: Split, image_id: str) -> np.ndarray:
        if image_id == "train3":
            raise DatasetError(f"image {self.image_path(split, image_id)} is truncated: fetch it again")
        return super().image(split, image_id)


def test_an_unreadable_image_ends_the_training_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"train3\.png is truncated"):
        run(tmp_path, dataset=Unreadable())


@pytest.mark.slow
def test_an_unreadable_image_keeps_its_message_across_processes(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"^image memory.train3\.png is truncated: fetch it again$"):
        run(tmp_path, dataset=Unreadable(), workers=1)


def test_an_empty_train_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no training images"):
        run(tmp_path, dataset=MemoryShapes(train=0))


def test_a_diverging_training_stops_with_step_and_rate(tmp_path: Path) -> None:
    with pytest.raises(TrainingDiverged, match=r"since step \d+ of 50 .*learning rate"):
        run(
            tmp_path,
            options={"iterations": 50, "batch_size": 2, "optimizer": "sgd", "learning_rate": 1e30},
            checkpoint_every=1,
        )
    stored = torch.load(tmp_path / CHECKPOINT_NAME, weights_only=True)
    assert stored["progress"]["iteration"] < 50


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    (tmp_path / CHECKPOINT_NAME).write_bytes(b"half a file")
    with pytest.raises(ArtifactCorrupt, match="cannot be read: delete it"):
        run(tmp_path)
    (tmp_path / CHECKPOINT_NAME).unlink()
    run(tmp_path, checkpoint_every=2)
    with pytest.raises(ArtifactCorrupt, match="belongs to another training"):
        run(tmp_path, seed=4)


def test_a_malicious_checkpoint_runs_nothing(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "owned",)

    torch.save({"identity": Payload()}, tmp_path / CHECKPOINT_NAME)
    with pytest.raises(ArtifactCorrupt):
        run(tmp_path)
    assert not (tmp_path / "owned").exists()


def test_a_device_that_is_absent_is_named(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault, match="cuda:99"):
        run(tmp_path, device="cuda:99")
    with pytest.raises(EnvironmentFault, match="unknown device 'gpu'"):
        run(tmp_path, device="gpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="the fault needs a machine without CUDA")
def test_mixed_precision_without_cuda_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentFault, match="mixed precision"):
        run(tmp_path, options=TINY | {"mixed_precision": True})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("victim", [UNetPlusPlus, DeepLabV3])
def test_it_trains_and_predicts_on_cuda_in_mixed_precision(tmp_path: Path, victim: Any) -> None:
    options = TINY | {"iterations": 20, "mixed_precision": True}
    result = run(tmp_path, victim, options, device="cuda")
    recipe = recipe_of(victim, MemoryShapes(), "semantic", **options)
    on_cuda = dict(predict(recipe, result.weights, MemoryShapes(), "val", device="cuda"))
    on_cpu = dict(predict(recipe, result.weights, MemoryShapes(), "val", device="cpu"))
    for name, prediction in on_cuda.items():
        assert (prediction.labels == on_cpu[name].labels).mean() > 0.98


class Recorder(Defense):
    """Blackens every image and remembers what it was given."""

    name = "recorder"

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[np.ndarray, float]] = []

    def transform(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        self.seen.append((image.copy(), float(rng.random())))
        return np.zeros_like(image)


def test_the_defense_sees_every_training_draw_and_no_evaluation_image(tmp_path: Path) -> None:
    defense = Recorder()
    result = run(tmp_path, defense=defense)
    assert len(defense.seen) == 12
    originals = [MemoryShapes().image("train", name) for name in MemoryShapes().ids("train")]
    for image, _ in defense.seen:
        assert any(np.array_equal(image, original) for original in originals)
    assert len({number for _, number in defense.seen}) == 12, "each draw has randomness of its own"
    recipe = recipe_of(UNetPlusPlus, MemoryShapes(), "semantic", **TINY)
    list(predict(recipe, result.weights, MemoryShapes(), "val", device="cpu"))
    assert len(defense.seen) == 12
    assert not same_weights(result.weights, run(tmp_path / "undefended").weights)


def test_a_defense_that_resizes_is_refused(tmp_path: Path) -> None:
    class Halving(Identity):
        def transform(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
            return image[::2, ::2]

    with pytest.raises(ContractViolation, match="it has to keep both"):
        run(tmp_path, defense=Halving())


def test_a_defense_that_writes_into_its_input_changes_no_later_draw(tmp_path: Path) -> None:
    class Greedy(Identity):
        def transform(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
            image[:] = image // 2
            return image

    class Polite(Identity):
        def transform(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
            return image // 2

    # More draws than images, so images come back from memory.
    greedy, polite = run(tmp_path / "a", defense=Greedy()), run(tmp_path / "b", defense=Polite())
    assert same_weights(greedy.weights, polite.weights)


def test_snapshots_are_those_of_the_training_and_change_nothing(tmp_path: Path) -> None:
    plain = run(tmp_path / "plain")
    kept = run(tmp_path / "kept", snapshots=(2, 5))
    assert sorted(kept.snapshots) == [2, 5] and plain.snapshots == {}
    ended, whole = load_file(kept.weights), load_file(plain.weights)
    assert all(torch.equal(ended[name], whole[name]) for name in whole)
    early = load_file(kept.snapshots[2])
    assert early.keys() == whole.keys() and any(not torch.equal(early[name], whole[name]) for name in whole)
