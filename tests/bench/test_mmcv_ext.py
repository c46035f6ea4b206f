"""Each operator of the stand-in for mmcv's extension, through mmcv.ops, against the same written as loops."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.errors import EnvironmentFault
from bench.mmcv_ext import EXTENSION, install


def _load_reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "mmcv_reference", Path(__file__).with_name("mmcv_reference.py")
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


reference = _load_reference()


@pytest.fixture(scope="module")
def ops() -> ModuleType:
    install()
    import mmcv.ops

    return mmcv.ops


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> str:
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs CUDA")
    return request.param


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def random_boxes(count: int, seed: int, size: float = 30) -> Tensor:
    corner = rand(count, 2, seed=seed) * size
    return torch.cat([corner, corner + 1 + rand(count, 2, seed=seed + 100) * size], 1)


def random_rois(count: int, images: int, seed: int) -> Tensor:
    image = torch.arange(count)[:, None] % images
    return torch.cat([image, random_boxes(count, seed, size=10)], 1)


def assert_same_with_gradients(function, expected, inputs: list[Tensor], device: str) -> None:
    """Compares outputs, and gradients of a random projection of them, in float32 to 1e-4."""
    ours = [x.clone().to(device).requires_grad_() for x in inputs]
    theirs = [x.clone().requires_grad_() for x in inputs]
    out, want = function(*ours), expected(*theirs)
    torch.testing.assert_close(out.detach().cpu(), want.detach(), atol=1e-4, rtol=1e-4)
    outer = rand(*want.shape, seed=9) - 0.5
    (out * outer.to(device)).sum().backward()
    (want * outer).sum().backward()
    for mine, right in zip(ours, theirs, strict=True):
        assert right.grad.abs().max() > 0
        torch.testing.assert_close(mine.grad.cpu(), right.grad, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("seed", range(3))
def test_nms(ops: ModuleType, device: str, offset: int, seed: int) -> None:
    boxes, scores = random_boxes(25, seed), rand(25, seed=seed + 7)
    dets, kept = ops.nms(boxes.to(device), scores.to(device), 0.3, offset=offset)
    expected = reference.nms(boxes, scores, 0.3, offset)
    assert kept.tolist() == expected
    assert 1 < len(expected) < 25
    assert torch.equal(dets.cpu(), torch.cat([boxes, scores[:, None]], 1)[expected])


def test_nms_offset_decides_between_touching_boxes(ops: ModuleType, device: str) -> None:
    boxes = torch.tensor([[0.0, 0, 1, 1], [0.0, 1, 1, 2]], device=device)
    scores = torch.tensor([0.9, 0.8], device=device)
    assert len(ops.nms(boxes, scores, 0.3, offset=0)[1]) == 2
    assert len(ops.nms(boxes, scores, 0.3, offset=1)[1]) == 1


def test_nms_takes_numpy(ops: ModuleType) -> None:
    boxes, scores = random_boxes(10, 0), rand(10, seed=7)
    _, kept = ops.nms(boxes.numpy(), scores.numpy(), 0.3)
    assert isinstance(kept, np.ndarray)
    assert kept.tolist() == reference.nms(boxes, scores, 0.3)


@pytest.mark.parametrize("method", ["naive", "linear", "gaussian"])
@pytest.mark.parametrize("offset", [0, 1])
def test_soft_nms(ops: ModuleType, device: str, method: str, offset: int) -> None:
    boxes, scores = random_boxes(20, 3), rand(20, seed=4)
    source = scores.clone()
    dets, kept = ops.soft_nms(
        boxes.to(device), scores.to(device), 0.3, sigma=0.4, min_score=0.05, method=method, offset=offset
    )
    expected, decayed = reference.soft_nms(boxes, scores, 0.3, 0.4, 0.05, method, offset)
    assert kept.tolist() == expected
    torch.testing.assert_close(dets[:, 4].cpu(), torch.tensor(decayed))
    assert torch.equal(dets[:, :4].cpu(), boxes[expected])
    assert torch.equal(scores, source)
    changed = len(expected) < len(scores) if method == "naive" else decayed != scores[expected].tolist()
    assert changed


def test_nms_match(ops: ModuleType, device: str) -> None:
    dets = torch.cat([random_boxes(20, 5), rand(20, 1, seed=6)], 1)
    groups = ops.nms_match(dets.to(device), 0.25)
    assert [group.tolist() for group in groups] == reference.nms_match(dets, 0.25)
    assert any(len(group) > 1 for group in groups)


@pytest.mark.parametrize("split", [10_000, 5])
def test_batched_nms_keeps_classes_apart(ops: ModuleType, device: str, split: int) -> None:
    boxes, scores = random_boxes(24, 8), rand(24, seed=9)
    classes = torch.arange(24) % 3
    config = {"type": "nms", "iou_threshold": 0.2, "split_thr": split}
    dets, kept = ops.batched_nms(boxes.to(device), scores.to(device), classes.to(device), config)
    expected = []
    for c in range(3):
        members = (classes == c).nonzero()[:, 0]
        expected += members[reference.nms(boxes[members], scores[members], 0.2)].tolist()
    expected.sort(key=lambda i: -scores[i].item())
    assert kept.tolist() == expected
    assert len(expected) > len(reference.nms(boxes, scores, 0.2))
    assert torch.equal(dets[:, :4].cpu(), boxes[expected])


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("sampling_ratio", [0, 2])
def test_roi_align(ops: ModuleType, device: str, aligned: bool, sampling_ratio: int) -> None:
    rois = random_rois(4, images=2, seed=11)  # some reach beyond the features
    assert_same_with_gradients(
        lambda x: ops.roi_align(x, rois.to(device), (3, 3), 0.5, sampling_ratio, "avg", aligned),
        lambda x: reference.roi_align(x, rois, 3, 0.5, sampling_ratio, aligned),
        [rand(2, 2, 8, 9)],
        device,
    )


def test_roi_align_max_says_what_is_missing(ops: ModuleType, device: str) -> None:
    with pytest.raises(NotImplementedError, match=r"roi_align.*max.*install a compiled mmcv"):
        ops.roi_align(
            rand(1, 1, 4, 4).to(device), random_rois(1, 1, 0).to(device), (2, 2), 1.0, 0, "max", True
        )


def test_roi_pool(ops: ModuleType, device: str) -> None:
    rois = torch.cat(
        [random_rois(4, images=2, seed=12), torch.tensor([[1.0, 50, 50, 60, 60]])]
    )  # last: outside
    assert_same_with_gradients(
        lambda x: ops.roi_pool(x, rois.to(device), (2, 2), 0.5),
        lambda x: reference.roi_pool(x, rois, 2, 0.5),
        [rand(2, 3, 8, 9)],
        device,
    )


CONVOLUTIONS = [
    # stride, padding, dilation, groups, deform_groups
    (1, 1, 1, 1, 1),
    (2, 1, 1, 2, 1),
    (1, 2, 2, 1, 2),
    (2, 2, 2, 2, 4),
]


def conv_inputs(stride: int, padding: int, dilation: int, groups: int, deform_groups: int) -> list[Tensor]:
    """features, offset, mask, weight, bias for a 3x3 kernel with 4 channels in and out."""
    features = rand(2, 4, 6, 5, seed=1)
    height, width = ((side + 2 * padding - 2 * dilation - 1) // stride + 1 for side in (6, 5))
    offset = (rand(2, 2 * deform_groups * 9, height, width, seed=2) - 0.5) * 3
    mask = rand(2, deform_groups * 9, height, width, seed=3)
    return [features, offset, mask, rand(4, 4 // groups, 3, 3, seed=4) - 0.5, rand(4, seed=5)]


@pytest.mark.parametrize("geometry", CONVOLUTIONS)
def test_deform_conv_v1(ops: ModuleType, device: str, geometry: tuple[int, ...]) -> None:
    features, offset, _, weight, _ = conv_inputs(*geometry)
    assert_same_with_gradients(
        lambda x, o, w: ops.deform_conv2d(x, o, w, *geometry),
        lambda x, o, w: reference.deform_conv(x, o, None, w, None, *geometry),
        [features, offset, weight],
        device,
    )


@pytest.mark.parametrize("geometry", CONVOLUTIONS)
def test_deform_conv_v2(ops: ModuleType, device: str, geometry: tuple[int, ...]) -> None:
    assert_same_with_gradients(
        lambda x, o, m, w, b: ops.modulated_deform_conv2d(x, o, m, w, b, *geometry),
        lambda x, o, m, w, b: reference.deform_conv(x, o, m, w, b, *geometry),
        conv_inputs(*geometry),
        device,
    )


def test_deform_conv_v2_without_bias(ops: ModuleType, device: str) -> None:
    geometry = CONVOLUTIONS[0]
    assert_same_with_gradients(
        lambda x, o, m, w: ops.modulated_deform_conv2d(x, o, m, w, None, *geometry),
        lambda x, o, m, w: reference.deform_conv(x, o, m, w, None, *geometry),
        conv_inputs(*geometry)[:4],
        device,
    )


@pytest.mark.parametrize("gamma", [2.0, 0.5])
@pytest.mark.parametrize("weighted", [False, True])
def test_sigmoid_focal_loss(ops: ModuleType, device: str, gamma: float, weighted: bool) -> None:
    target = torch.tensor([0, 2, 3, 1, 3])  # 3 is background
    weight = torch.tensor([0.5, 2.0, 3.0]) if weighted else None
    assert_same_with_gradients(
        lambda x: ops.sigmoid_focal_loss(
            x, target.to(device), gamma, 0.25, None if weight is None else weight.to(device), "none"
        ),
        lambda x: reference.focal_loss(x, target, gamma, 0.25, weight),
        [(rand(5, 3) - 0.5) * 8],
        device,
    )


def test_sigmoid_focal_loss_is_finite_at_extreme_logits(ops: ModuleType, device: str) -> None:
    logits = torch.tensor([[200.0, -200.0]], device=device, requires_grad=True)
    loss = ops.sigmoid_focal_loss(logits, torch.tensor([1], device=device), 2.0, 0.25, None, "mean")
    loss.backward()
    assert loss.item() == pytest.approx(0.75 * 200 + 0.25 * 200)
    assert torch.isfinite(logits.grad).all()


SHAPES = [(4, 5), (2, 3)]


def attention_inputs() -> list[Tensor]:
    value = rand(2, 26, 2, 3, seed=1)
    locations = rand(2, 4, 2, 2, 3, 2, seed=2) * 1.4 - 0.2  # some outside
    weights = rand(2, 4, 2, 6, seed=3).softmax(-1).view(2, 4, 2, 2, 3)
    return [value, locations, weights]


def test_multi_scale_deformable_attention(ops: ModuleType, device: str) -> None:
    from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction

    shapes = torch.tensor(SHAPES, device=device)
    start = torch.tensor([0, 20], device=device)
    assert_same_with_gradients(
        lambda v, p, w: MultiScaleDeformableAttnFunction.apply(v, shapes, start, p, w, 64),
        lambda v, p, w: reference.deformable_attention(v, SHAPES, p, w),
        attention_inputs(),
        device,
    )


def test_no_boxes(ops: ModuleType, device: str) -> None:
    boxes, scores = torch.zeros(0, 4, device=device), torch.zeros(0, device=device)
    assert [len(part) for part in ops.nms(boxes, scores, 0.5)] == [0, 0]
    assert [len(part) for part in ops.soft_nms(boxes, scores, 0.5)] == [0, 0]
    assert ops.nms_match(torch.zeros(0, 5, device=device), 0.5) == []
    config = {"type": "nms", "iou_threshold": 0.5}
    assert [len(part) for part in ops.batched_nms(boxes, scores, scores, config, class_agnostic=True)] == [
        0,
        0,
    ]


def test_no_regions(ops: ModuleType, device: str) -> None:
    rois = torch.zeros(0, 5, device=device)
    for pool in (
        lambda x: ops.roi_align(x, rois, (3, 3), 1.0, 0, "avg", True),
        lambda x: ops.roi_pool(x, rois, (3, 3), 1.0),
    ):
        features = rand(2, 4, 8, 8).to(device).requires_grad_()
        out = pool(features)
        assert out.shape == (0, 4, 3, 3)
        out.sum().backward()
        assert not features.grad.any()


def test_no_samples_in_focal_loss(ops: ModuleType, device: str) -> None:
    logits = torch.zeros(0, 3, device=device, requires_grad=True)
    loss = ops.sigmoid_focal_loss(
        logits, torch.zeros(0, dtype=torch.long, device=device), 2.0, 0.25, None, "sum"
    )
    loss.backward()
    assert loss.item() == 0


def test_bfloat16_autocast(ops: ModuleType, device: str) -> None:
    """Under autocast each operator takes bfloat16 activations, forward and backward."""
    from mmcv.ops.multi_scale_deform_attn import MultiScaleDeformableAttnFunction

    rois = random_rois(4, images=2, seed=11).to(device)
    shapes, start = torch.tensor(SHAPES, device=device), torch.tensor([0, 20], device=device)
    features, offset, mask, weight, bias = (x.to(device) for x in conv_inputs(1, 1, 1, 1, 1))
    cases = [
        (lambda x: ops.roi_align(x, rois, (3, 3), 0.5, 0, "avg", True), [rand(2, 2, 8, 9)]),
        (lambda x: ops.roi_pool(x, rois, (3, 3), 0.5), [rand(2, 2, 8, 9)]),
        (lambda x: ops.deform_conv2d(x, offset, weight, 1, 1), [features]),
        (lambda x: ops.modulated_deform_conv2d(x, offset, mask, weight, bias, 1, 1), [features]),
        (
            lambda v, p, w: MultiScaleDeformableAttnFunction.apply(v, shapes, start, p, w, 64),
            attention_inputs(),
        ),
        (
            lambda x: ops.sigmoid_focal_loss(x, torch.tensor([0, 3], device=device), 2.0, 0.25, None, "none"),
            [rand(2, 3)],
        ),
    ]
    for function, inputs in cases:
        exact = function(*(x.to(device) for x in inputs))
        leaves = [x.to(device).requires_grad_() for x in inputs]
        with torch.autocast(device, dtype=torch.bfloat16):
            rounded = function(*(leaf.to(torch.bfloat16) for leaf in leaves))
            rounded.float().sum().backward()
        torch.testing.assert_close(rounded.float(), exact, atol=0.05, rtol=0.05)
        assert all(torch.isfinite(leaf.grad).all() and leaf.grad.any() for leaf in leaves)


def test_a_missing_operator_names_itself_and_the_remedy(ops: ModuleType) -> None:
    with pytest.raises(NotImplementedError, match=r"'psamask_forward'.*install a compiled mmcv"):
        ops.PSAMask("collect", (3, 3))(rand(1, 9, 4, 4))


def test_install_is_idempotent() -> None:
    assert install() is False
    module = sys.modules[EXTENSION]
    assert install() is False
    assert sys.modules[EXTENSION] is module
    import mmcv

    assert mmcv._ext is module


def test_dunder_lookups_are_not_answered(ops: ModuleType) -> None:
    assert not hasattr(sys.modules[EXTENSION], "__wrapped__")


def test_missing_mmcv_is_an_environment_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, EXTENSION, raising=False)
    monkeypatch.setitem(sys.modules, "mmcv", None)
    with pytest.raises(EnvironmentFault, match="pip install mmcv-lite"):
        install()


@pytest.fixture
def compiled_extension(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that `import mmcv._ext` finds, for a test to write."""
    install()
    import mmcv

    monkeypatch.setattr(mmcv, "_ext", mmcv._ext)
    monkeypatch.setattr(mmcv, "__path__", [str(tmp_path), *mmcv.__path__])
    monkeypatch.delitem(sys.modules, EXTENSION)
    return tmp_path / "_ext.py"


def test_a_compiled_extension_is_left_alone(compiled_extension: Path) -> None:
    compiled_extension.write_text("answer = 42")
    assert install() is True
    assert sys.modules[EXTENSION].answer == 42


def test_a_broken_compiled_extension_is_replaced_with_a_warning(compiled_extension: Path) -> None:
    compiled_extension.write_text("raise ImportError('undefined symbol: _ZN2at4_ops')")
    with pytest.warns(UserWarning, match="undefined symbol"):
        assert install() is False


def test_a_module_that_a_compiled_extension_lacks_is_not_swallowed(compiled_extension: Path) -> None:
    compiled_extension.write_text("import no_such_module")
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        install()
