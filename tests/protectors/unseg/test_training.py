"""Training at scale: parts of a batch, half precision, threads that load, what is logged."""

from __future__ import annotations

import csv
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from unseg_support import QUICK, TINY, Scenes, context

from bench.errors import DatasetError, TrainingDiverged
from protectors.unseg import UnSeg, monitor, training
from protectors.unseg.generator import NoiseSam
from protectors.unseg.loading import batches
from protectors.unseg.monitor import CURVE, CURVE_ROWS, LossCurve
from protectors.unseg.options import PROMPT_KINDS, UnSegOptions
from protectors.unseg.parallel import Share
from protectors.unseg.samples import SampleStream
from protectors.unseg.training import Training


def tiny(**changes: Any) -> UnSegOptions:
    return UnSeg.resolve_options("ci", QUICK | changes)


def fit(folder: Path, options: UnSegOptions, **changes: Any) -> dict[str, Tensor]:
    """The generator's weights after a fit on drawn scenes."""
    UnSeg(options).fit([Scenes()], context(folder, **changes))
    return load_file(folder / "state" / training.WEIGHTS)


# ---- parts of a batch --------------------------------------------------------------------------


def gradients_of_first_step(options: UnSegOptions) -> tuple[float, dict[str, Tensor]]:
    done = Training(options, 0, "cpu")
    image, mask = SampleStream([Scenes()], options, seed=0).batch(0)
    loss = done._backward(image, mask, done.learner)
    network = getattr(done, done.learner)
    found = {n: p.grad for n, p in network.named_parameters() if p.grad is not None}
    assert found
    return loss, found


@pytest.mark.parametrize("loss", ["dense", "points"])
@pytest.mark.parametrize("surrogate_every", [2, 4])
@pytest.mark.parametrize("accumulation", [2, 3, 5, 9])
def test_parts_of_a_batch_add_up_to_its_gradient(monkeypatch, accumulation, surrogate_every, loss):
    changes = {"batch_size": 5, "loss": loss, "loss_points": 60, "surrogate_prompts": list(PROMPT_KINDS)}
    if surrogate_every == 2:  # the first step is the generator's
        monkeypatch.setattr(Training, "learner", "generator")
    whole, expected = gradients_of_first_step(tiny(**changes))
    parts, found = gradients_of_first_step(tiny(**changes, accumulation=accumulation))
    assert parts == pytest.approx(whole, rel=1e-5)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        scale = expected[name].abs().max().item()
        torch.testing.assert_close(gradient, expected[name], rtol=1e-4, atol=1e-4 * scale + 1e-9)


def test_no_more_rows_than_a_part_has_are_computed_at_a_time(monkeypatch):
    seen = []
    forward = NoiseSam.forward
    monkeypatch.setattr(
        NoiseSam,
        "forward",
        lambda self, image, prompts: seen.append(len(image)) or forward(self, image, prompts),
    )
    gradients_of_first_step(tiny(batch_size=7, accumulation=3))
    assert sorted(seen) == [2, 2, 3]


# ---- half precision ----------------------------------------------------------------------------


def test_bf16_is_used_in_the_networks_and_nowhere_else():
    options = tiny(
        precision="bf16", loss="points", loss_points=60, generator=TINY | {"relative_positions": True}
    )
    done = Training(options, 0, "cpu")
    types: dict[str, set[torch.dtype]] = {}

    def watch(name: str, module: torch.nn.Module) -> None:
        def hook(module: Any, inputs: Any, output: Any) -> None:
            tensors = output if isinstance(output, tuple) else (output,)
            types.setdefault(name, set()).update(tensor.dtype for tensor in tensors)

        module.register_forward_hook(hook)

    for name in ("generator", "surrogate"):
        network = getattr(done, name)
        watch("attention", network.image_encoder.blocks[0].attn)
        watch("upscaling", network.mask_decoder.output_upscaling)
        watch("prompts", network.prompt_encoder)
        watch("positions", network.prompt_encoder.pe_layer)
    watch("fusion", done.generator.mask_decoder.noise_compress_vit_feat)
    watch("noise", done.generator)
    stream = SampleStream([Scenes()], options, seed=0)
    while done.step < done.total:
        assert math.isfinite(done.advance(*stream.batch(done.step)))
    for name in ("attention", "upscaling", "fusion"):
        assert types[name] == {torch.bfloat16}, name
    image, mask = stream.batch(0)
    types["loss"] = {done.loss(image, mask, "generator", torch.Generator()).dtype}
    for name in ("prompts", "positions", "noise", "loss"):
        assert types[name] == {torch.float32}, name
    kept = [p for network in (done.generator, done.surrogate) for p in network.state_dict().values()]
    for optimizer in done.optimizers.values():
        kept += [value for state in optimizer.state.values() for value in state.values()]
    assert {value.dtype for value in kept} == {torch.float32}


def test_bf16_follows_fp32_closely():
    losses = {}
    for precision in ("fp32", "bf16"):
        options = tiny(precision=precision, surrogate_learning_rate=1e-3, generator_learning_rate=1e-3)
        done = Training(options, 0, "cpu")
        stream = SampleStream([Scenes()], options, seed=0)
        losses[precision] = [done.advance(*stream.batch(done.step)) for _ in range(done.total)]
    assert losses["bf16"] != losses["fp32"]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.02)


# ---- loading -----------------------------------------------------------------------------------


def test_threads_change_no_byte(tmp_path):
    options = tiny(jitter=(0.4, 1.6), flips="all", phase_steps=3)
    for name, workers in (("none", 0), ("three", 3)):
        fit(tmp_path / name, options, loader_workers=workers)
    for name in (training.WEIGHTS, CURVE):
        assert (tmp_path / "none/state" / name).read_bytes() == (tmp_path / "three/state" / name).read_bytes()


@pytest.mark.parametrize("workers", [0, 1, 4])
@pytest.mark.parametrize(("first", "last"), [(0, 9), (3, 4), (4, 6), (5, 5)])
def test_batches_come_in_order_and_once(workers, first, last):
    options = tiny(batch_size=3)
    stream = SampleStream([Scenes()], options, seed=0)
    found = list(batches(stream, first, last, Share(1, 3, 3), workers))
    assert len(found) == last - first
    for step, (image, mask) in zip(range(first, last), found, strict=True):
        expected = stream.batch(step)
        assert torch.equal(image, expected[0][1:])
        assert torch.equal(mask, expected[1][1:])


def test_what_goes_wrong_in_a_thread_is_raised_and_the_threads_end():
    import threading

    options = tiny(batch_size=3)
    scenes = Scenes()
    stream = SampleStream([scenes], options, seed=0)
    started = batches(stream, 0, 100, Share(0, 3, 3), 2)
    next(started)
    next(started)
    scenes.image = lambda split, image_id: (_ for _ in ()).throw(DatasetError("unreadable"))
    stream._kept.clear()
    with pytest.raises(DatasetError, match="unreadable"):
        list(started)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("samples")]
    closed = batches(SampleStream([Scenes()], options, seed=0), 0, 100, Share(0, 3, 3), 2)
    next(closed)
    next(closed)
    closed.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("samples")]


def test_the_number_of_threads_is_the_user_s_else_the_device_s(tmp_path):
    assert training.loader_threads(context(tmp_path)) == 0
    assert training.loader_threads(context(tmp_path, loader_workers=5)) == 5
    on_gpu = training.FitContext(tmp_path, tmp_path, 0, "cuda:1")
    assert 1 <= training.loader_threads(on_gpu) <= training.GPU_LOADERS


# ---- what is logged ----------------------------------------------------------------------------


def test_the_curve_holds_every_loss_and_the_paper_s_learning_rates(tmp_path):
    notes: list[str] = []
    options = tiny(phases=7, phase_steps=2, first_phase_steps=2, decay_phase=5, decay_factor=0.1)
    options = options.model_copy(update={"generator_learning_rate": 1e-4, "surrogate_learning_rate": 3e-4})
    fit(tmp_path, options, report=lambda done, total, note: notes.append(note))
    rows = list(csv.DictReader((tmp_path / "state" / CURVE).open()))
    assert [int(row["step"]) for row in rows] == list(range(1, 15))
    assert [int(row["phase"]) for row in rows] == [phase for phase in range(7) for _ in range(2)]
    for row, note in zip(rows, notes, strict=True):
        learner = "surrogate" if int(row["phase"]) % 4 == 0 else "generator"
        resting = "generator" if learner == "surrogate" else "surrogate"
        assert row[f"{resting}_loss"] == row[f"{resting}_learning_rate"] == ""
        rate = {"generator": 1e-4, "surrogate": 3e-4}[learner] * (0.1 if int(row["phase"]) >= 5 else 1)
        assert float(row[f"{learner}_learning_rate"]) == pytest.approx(rate)
        start = f"phase {int(row['phase']) + 1} {learner} loss {float(row[f'{learner}_loss']):.3f}"
        assert note.startswith(start)
    assert "images/s" in notes[-1]


def test_the_paper_s_schedule_is_a_tenth_from_its_twenty_first_epoch():
    options = UnSegOptions(generator=TINY, surrogate=TINY, phase_steps=1, batch_size=1)
    done = Training(options, 0, "cpu")
    stream = SampleStream([Scenes()], options, seed=0)
    learners = []
    while done.step < done.total:
        learners.append(done.learner)
        done.advance(*stream.batch(done.step))
    assert [i for i, learner in enumerate(learners) if learner == "surrogate"] == [0, 4, 8, 12, 16, 20, 24]
    rates = [row[3] or row[5] for row in done.curve.rows]
    assert rates == pytest.approx([1e-4] * 20 + [1e-5] * 7)


@pytest.mark.parametrize("total", [1, 999, 1000, 1001, 37_395])
def test_the_curve_is_bounded_and_its_means_are_those_of_its_windows(total):
    curve = LossCurve(total)
    for step in range(1, total + 1):
        curve.add(step, step // 100, "generator" if step % 3 else "surrogate", float(step), 0.1)
    assert len(curve.rows) <= CURVE_ROWS
    assert curve.rows[-1][0] == total
    window = curve.window
    first = [float(step) for step in range(1, min(window, total) + 1) if step % 3]
    assert curve.rows[0][2] == pytest.approx(sum(first) / len(first))


def test_a_curve_goes_on_where_it_stopped():
    whole, begun = LossCurve(2500), LossCurve(2500)
    for step in range(1, 2501):
        whole.add(step, 0, "generator", 1 / step, 0.1)
        begun.add(step, 0, "generator", 1 / step, 0.1)
        if step == 1201:  # in the midst of a window
            state, begun = begun.state(), LossCurve(2500)
            begun.restore(state)
    assert begun.rows == whole.rows


def test_a_failed_training_leaves_its_curve(tmp_path):
    with pytest.raises(TrainingDiverged):
        fit(tmp_path, tiny(surrogate_learning_rate=1e30))
    rows = list(csv.DictReader((tmp_path / "state" / CURVE).open()))
    assert rows
    assert not (tmp_path / "state" / training.WEIGHTS).exists()


def test_without_tensorboard_nothing_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    fit(tmp_path, tiny())
    assert {path.name for path in (tmp_path / "state").iterdir()} == {
        training.WEIGHTS,
        training.OPTIONS,
        CURVE,
    }


def test_tensorboard_gets_losses_rates_and_speed(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fit(tmp_path, tiny())
    events = EventAccumulator(str(tmp_path / "state" / monitor.TENSORBOARD))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {*monitor.COLUMNS[1:], "images_per_second"}
    rows = list(csv.DictReader((tmp_path / "state" / CURVE).open()))
    for learner in ("generator", "surrogate"):
        expected = [
            (int(row["step"]), float(row[f"{learner}_loss"])) for row in rows if row[f"{learner}_loss"]
        ]
        found = [(event.step, event.value) for event in events.Scalars(f"{learner}_loss")]
        assert found == [(step, pytest.approx(loss, rel=1e-4)) for step, loss in expected]
