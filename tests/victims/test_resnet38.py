"""ResNet38: the published architecture, what is frozen, and its authors' weights in MXNet's format."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench.errors import ArtifactCorrupt, EnvironmentFault
from bench.training.environment import prepare

prepare("mmseg", ("victims.pretrained_resnet38",))

from victims import pretrained_resnet38  # noqa: E402
from victims.pretrained_resnet38 import ResNet38ImageNet, read_params, torch_name  # noqa: E402
from victims.resnet38 import DILATIONS, STRIDES, ResNet38  # noqa: E402

NARROW = (4, 8, 8, 8, 16, 16, 32)

# Table of arXiv:1611.10080: for each level the channels within a unit, the kernels, and the number of units.
LEVELS: dict[int, tuple[tuple[int, ...], tuple[int, ...], int]] = {
    2: ((128, 128), (3, 3), 3),
    3: ((256, 256), (3, 3), 3),
    4: ((512, 512), (3, 3), 6),
    5: ((512, 1024), (3, 3), 3),
    6: ((512, 1024, 2048), (1, 3, 1), 1),
    7: ((1024, 2048, 4096), (1, 3, 1), 1),
}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def parameters_by_the_table() -> int:
    """Convolutions without bias, scale and shift before each, a projection where the channels change."""
    channels = 64
    total = 3 * 64 * 9
    for outputs, kernels, units in LEVELS.values():
        for _ in range(units):
            if channels != outputs[-1]:
                total += channels * outputs[-1]
            for output, kernel in zip(outputs, kernels, strict=True):
                total += 2 * channels + channels * output * kernel**2
                channels = output
    return total + 2 * channels


def test_it_has_the_layers_of_the_papers_table() -> None:
    with torch.device("meta"):
        backbone = ResNet38()
    count = sum(parameter.numel() for parameter in backbone.parameters())
    assert count == parameters_by_the_table() == 105_070_912
    convolutions = [
        name
        for name, module in backbone.named_modules()
        if isinstance(module, nn.Conv2d) and not name.endswith("shortcut")
    ]
    assert len(convolutions) == 37  # and the classifier, which is what the 38 counts


def test_down_sampling_and_dilation_are_those_of_output_stride_8() -> None:
    backbone = ResNet38(NARROW)
    assert STRIDES == (2, 2, 2, 1, 1, 1) and DILATIONS == (1, 1, 1, 2, 4, 4)
    assert backbone(torch.zeros(2, 3, 321, 250))[0].shape == (2, 32, 41, 32)
    dilations = {
        name: module.dilation[0]
        for name, module in backbone.named_modules()
        if isinstance(module, nn.Conv2d) and module.dilation[0] > 1
    }
    assert dilations == {
        "level5.0.conv2": 2,  # the first convolution of the level still sees neighbours at distance 1
        **{f"level5.{unit}.conv{number}": 2 for unit in (1, 2) for number in (1, 2)},
        "level6.0.conv2": 4,
        "level7.0.conv2": 4,
    }


def step(backbone: ResNet38) -> dict[str, Tensor]:
    """The tensors that a training step changed."""
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    trained = [parameter for parameter in backbone.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1.0)
    generator = torch.Generator().manual_seed(0)
    backbone.train()(torch.randn(2, 3, 32, 32, generator=generator))[0].square().mean().backward()
    optimizer.step()
    return {name: t for name, t in backbone.state_dict().items() if not torch.equal(t, before[name])}


def test_frozen_means_the_first_convolution_and_every_batch_norm() -> None:
    torch.manual_seed(0)
    backbone = ResNet38(NARROW, frozen=True)
    convolutions = {name for name, m in backbone.named_modules() if isinstance(m, nn.Conv2d)} - {"conv1a"}
    assert set(step(backbone)) == {f"{name}.weight" for name in convolutions}


def test_from_scratch_everything_is_trained() -> None:
    torch.manual_seed(0)
    backbone = ResNet38(NARROW)
    backbone.init_weights()
    assert set(step(backbone)) == set(backbone.state_dict())


# ---- the authors' file ---------------------------------------------------------------------------


def packed(arrays: Mapping[str, np.ndarray], magic: int | None) -> bytes:
    """An MXNet file as versions before 0.11 wrote it: without a magic, or with that of version 1."""
    content = struct.pack("<3Q", 0x112, 0, len(arrays))
    for array in arrays.values():
        sizes = "I" if magic is None else "Q"
        content += b"" if magic is None else struct.pack("<I", magic)
        content += struct.pack(f"<I{array.ndim}{sizes}3i", array.ndim, *array.shape, 1, 0, 0)
        content += array.astype("<f4").tobytes()
    content += struct.pack("<Q", len(arrays))
    return content + b"".join(struct.pack("<Q", len(name)) + name.encode() for name in arrays)


def authors_names() -> list[str]:
    """The names in the authors' file, from the table: parameters by level, unit and branch."""
    norm = ("arg:{}_gamma", "arg:{}_beta", "aux:{}_moving_mean", "aux:{}_moving_var")
    names = ["arg:conv1a_weight", "arg:linear1000_weight", "arg:linear1000_bias"]
    names += [form.format("bn7") for form in norm]
    for level, (_, kernels, units) in LEVELS.items():
        for unit in ("a", *(f"b{index}" for index in range(1, units))):
            branches = ("2a", "2b1", "2b2")[: len(kernels)]
            for branch in branches:
                names.append(f"arg:res{level}{unit}_branch{branch}_weight")
                names += [form.format(f"bn{level}{unit}_branch{branch}") for form in norm]
            if unit == "a":
                names.append(f"arg:res{level}a_branch1_weight")
    return names


def test_a_file_of_mxnet_itself_is_read() -> None:
    # Written by mxnet 1.9.1: mx.nd.save of float32 and float16 arrays.
    found = read_params(Path(__file__).parent / "data" / "mxnet_1.9.1.params")
    assert set(found) == {"arg:conv1a_weight", "aux:bn7_moving_var", "arg:linear1000_weight"}
    assert torch.equal(found["arg:conv1a_weight"], torch.arange(12.0).reshape(2, 3, 1, 2))
    assert found["aux:bn7_moving_var"].tolist() == [0.5, -2.0]
    assert found["arg:linear1000_weight"].tolist() == [[1.5, -0.25]]


@pytest.mark.parametrize("magic", [None, 0xF993FAC8])
def test_older_files_are_read(tmp_path: Path, magic: int | None) -> None:
    path = tmp_path / "old.params"
    path.write_bytes(packed({"a": np.arange(6.0).reshape(2, 3), "b": np.array([7.0])}, magic))
    found = read_params(path)
    assert found["a"].tolist() == [[0, 1, 2], [3, 4, 5]] and found["b"].tolist() == [7]


def test_a_file_that_is_none_or_cut_off_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file.params"
    whole = packed({"a": np.arange(6.0)}, None)
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ArtifactCorrupt, match=r"file\.params is no readable MXNet parameter file"):
            read_params(path)
    path.write_bytes(struct.pack("<3Q", 0x112, 0, 2**60))
    with pytest.raises(ArtifactCorrupt, match="cut off or damaged"):
        read_params(path)


def authors_file(backbone: ResNet38) -> bytes:
    """What the authors' file would be for `backbone`."""
    state = backbone.state_dict()
    target = {name: torch_name(name) for name in authors_names()}
    arrays = {name: np.zeros(2) if new is None else state[new].numpy() for name, new in target.items()}
    return packed(arrays, None)


def test_the_authors_weights_fill_the_whole_backbone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    source, loaded = ResNet38(NARROW), ResNet38(NARROW)
    for parameter in source.parameters():
        nn.init.normal_(parameter)
    content = authors_file(source)
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path))
    monkeypatch.setattr(pretrained_resnet38, "MD5", hashlib.md5(content).hexdigest())
    path = tmp_path / "weights" / pretrained_resnet38.NAME
    path.parent.mkdir()
    path.write_bytes(content)
    ResNet38ImageNet()(loaded)
    assert all(torch.equal(tensor, source.state_dict()[name]) for name, tensor in loaded.state_dict().items())
    with pytest.raises(ArtifactCorrupt, match=r"conv1a_weight of shape \(4, 3, 3, 3\), not \(8, 3, 3, 3\)"):
        ResNet38ImageNet()(ResNet38((8, *NARROW[1:])))


def test_absent_or_other_weights_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path))
    place = rf"{tmp_path}/weights/ilsvrc-cls_rna-a1_cls1000_ep-0001\.params"
    with pytest.raises(EnvironmentFault, match=rf"md5 ff21f45d.* from https://.* save it as {place}, or use"):
        ResNet38ImageNet()(ResNet38(NARROW))
    path = tmp_path / "weights" / pretrained_resnet38.NAME
    path.parent.mkdir()
    path.write_bytes(b"<html>quota exceeded</html>")
    with pytest.raises(ArtifactCorrupt, match="its md5 is"):
        ResNet38ImageNet()(ResNet38(NARROW))
