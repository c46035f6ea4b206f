"""Pretrained weights of UnSeg's networks: what they are called, whether they fit, and where they end up."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from segment_anything import sam_model_registry
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from unseg_support import TINY_SAM

from bench import cache
from bench.downloads import DownloadFailed, RemoteFile
from bench.errors import EXIT_USAGE, EnvironmentFault, SpecError, UsageError
from bench.plan import make_fit_plan
from bench.spec import DatasetSpec, ProtectorSpec
from bench.store import Store
from protectors.unseg import UnSeg, checkpoints
from protectors.unseg.checkpoints import CATALOGUE, Checkpoint
from protectors.unseg.generator import NoiseSam
from protectors.unseg.options import Geometry, UnSegOptions
from protectors.unseg.pretrained import compare, load_mae, load_sam, read_state_dict, resize_positions
from protectors.unseg.prompts import Prompts
from protectors.unseg.surrogate import ScratchSam
from protectors.unseg.tiny_vit import from_mobile_sam
from protectors.unseg.training import Training, build_networks

SAM_ENCODERS = {"sam_vit_b": "vit_b", "sam_vit_l": "vit_l", "sam_vit_h": "vit_h"}


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def tiny_sam(seed: int = 0, **changes: Any) -> Sam:
    """segment-anything's SAM in the geometry `TINY_SAM`."""
    geometry = Geometry(**TINY_SAM | changes)
    torch.manual_seed(seed)
    return Sam(
        ImageEncoderViT(
            img_size=geometry.image_size,
            patch_size=geometry.patch_size,
            embed_dim=geometry.embed_dim,
            depth=geometry.depth,
            num_heads=geometry.num_heads,
            out_chans=geometry.decoder_dim,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=geometry.window_size,
            global_attn_indexes=geometry.global_blocks,
        ),
        PromptEncoder(geometry.decoder_dim, (4, 4), (16, 16), geometry.mask_channels),
        MaskDecoder(
            transformer_dim=geometry.decoder_dim,
            transformer=TwoWayTransformer(
                2, geometry.decoder_dim, geometry.decoder_heads, geometry.decoder_mlp_dim
            ),
            iou_head_hidden_dim=geometry.decoder_dim,
        ),
    )


def saved(state: Any, path: Path) -> Path:
    torch.save(state, path)
    return path


@pytest.fixture
def sam_file(tmp_path: Path) -> Path:
    return saved(tiny_sam().state_dict(), tmp_path / "sam tiny.pth")


# ---- names and identities ------------------------------------------------------------------------


@pytest.mark.parametrize("name", CATALOGUE)
def test_a_catalogue_entry_is_whole_and_its_name_stands_for_its_hash(name: str) -> None:
    checkpoint = CATALOGUE[name]
    assert checkpoint.file.url.startswith("https://")
    assert cache.is_reference(checkpoint.reference)
    assert checkpoint.file.size > 30e6
    field = f"{checkpoint.network}_init"
    resolved = UnSeg.resolve_options("cpu", {field: name})
    assert getattr(resolved, field) == checkpoint.reference
    assert UnSeg.resolve_options("cpu", {field: checkpoint.reference}) == resolved
    assert UnSeg.resolve_options("cpu", resolved.model_dump(mode="json")) == resolved
    assert getattr(resolved, checkpoint.network) == Geometry(**checkpoint.geometry)
    assert resolved.trainable == ("noise" if checkpoint.network == "generator" else "all")
    assert UnSegOptions(**{field: name}).model_dump()[field] == checkpoint.reference


def test_paper_starts_from_sam_and_mae_and_trains_the_noise_parts_alone() -> None:
    paper = UnSeg.resolve_options("paper", {})
    assert paper.generator_init == CATALOGUE["sam_vit_b"].reference
    assert paper.surrogate_init == CATALOGUE["mae_vit_b"].reference
    assert (paper.trainable, paper.token_readout) == ("noise", "official")
    scratch = UnSeg.resolve_options("paper", {"generator_init": "random", "surrogate_init": "random"})
    assert scratch.trainable == "all"
    assert (scratch.generator, scratch.surrogate) == (paper.generator, paper.surrogate)


@pytest.mark.parametrize("profile", ["ci", "cpu", "gpu"])
def test_the_small_profiles_start_at_random(profile: str) -> None:
    options = UnSeg.resolve_options(profile, {})
    assert (options.generator_init, options.surrogate_init, options.weights) == ("random", "random", None)
    assert options.trainable == "all"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"generator_init": "sam_vitb"}, "did you mean sam_vit_b"),
        ({"generator_init": "mae_vit_b"}, "is for the surrogate, not for the generator"),
        ({"surrogate_init": "sam_vit_b"}, "is for the generator, not for the surrogate"),
        ({"generator_init": "no/such/file.pth"}, "there is no such file"),
        ({"generator_init": "sha256:12"}, "there is no such file"),
        (
            {"generator_init": "sam_vit_b", "generator": {"image_size": 512}},
            "sam_vit_b has image_size 1024, and generator.image_size is 512",
        ),
        (
            {"generator_init": "mobile_sam", "generator": {"encoder": "vit"}},
            "mobile_sam has encoder tiny_vit, and generator.encoder is vit",
        ),
        (
            {"surrogate_init": "mae_vit_b", "surrogate": {"num_heads": 8}},
            "mae_vit_b has num_heads 12, and surrogate.num_heads is 8",
        ),
    ],
)
def test_weights_that_do_not_go_with_the_request_are_refused_at_once(
    given: dict[str, Any], message: str
) -> None:
    with pytest.raises(SpecError) as caught:
        UnSeg.resolve_options("cpu", given)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == EXIT_USAGE


def test_mae_goes_with_any_image_size_and_decoder() -> None:
    surrogate = {"image_size": 256, "decoder_dim": 128, "relative_positions": False}
    options = UnSeg.resolve_options("paper", {"surrogate": surrogate})
    assert options.surrogate == Geometry(**surrogate)


def test_an_option_never_holds_a_path(tmp_path: Path) -> None:
    for field in ("generator_init", "surrogate_init", "weights"):
        with pytest.raises(ValidationError):
            UnSegOptions(**{field: str(tmp_path)})


def fit_key(store: Path, init: Path) -> str:
    options = {"generator_init": str(init), "generator": TINY_SAM}
    plan = make_fit_plan(ProtectorSpec(name="unseg", options=options), DatasetSpec(), "ci", 0, Store(store))
    return plan.stages[-1].key


def test_the_key_follows_the_content_of_the_file_and_not_its_path(tmp_path: Path, sam_file: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    copy = tmp_path / "elsewhere" / "copy.pth"
    copy.write_bytes(sam_file.read_bytes())
    other = saved(tiny_sam(seed=1).state_dict(), tmp_path / "other.pth")
    key = fit_key(tmp_path, sam_file)
    assert fit_key(tmp_path, copy) == key
    assert fit_key(tmp_path, other) != key


def test_a_file_with_a_published_hash_is_that_checkpoint(
    tmp_path: Path, sam_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = Checkpoint(
        "sam_tiny",
        RemoteFile("http://127.0.0.1:9/t.pth", cache.file_digest(sam_file), 9),
        "generator",
        TINY_SAM,
    )
    monkeypatch.setattr(checkpoints, "_CHECKPOINTS", (published,))
    monkeypatch.setattr(checkpoints, "CATALOGUE", {"sam_tiny": published})
    by_name = UnSeg.resolve_options("cpu", {"generator_init": "sam_tiny"})
    assert by_name.generator == Geometry(**TINY_SAM)
    with pytest.raises(
        EnvironmentFault, match=r"sam_tiny \(sha256:.*get http://127.0.0.1:9/t.pth and save it"
    ):
        build_networks(by_name.model_copy(update={"surrogate": Geometry(**TINY_SAM)}), 0, "cpu")
    by_path = UnSeg.resolve_options("cpu", {"generator_init": str(sam_file)})
    assert by_path == by_name
    build_networks(by_path.model_copy(update={"surrogate": Geometry(**TINY_SAM)}), 0, "cpu")


def test_what_is_missing_is_fetched_before_a_fit_or_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    published = Checkpoint(
        "sam_tiny", RemoteFile("http://127.0.0.1:9/t.pth", "0" * 64, 9), "generator", TINY_SAM
    )
    monkeypatch.setattr(checkpoints, "_CHECKPOINTS", (published,))
    monkeypatch.setattr(checkpoints, "CATALOGUE", {"sam_tiny": published})
    monkeypatch.setattr("bench.downloads.time.sleep", lambda seconds: None)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with pytest.raises(DownloadFailed, match="get it by hand and save it as"):
        UnSeg(UnSegOptions(generator_init="sam_tiny")).prepare(lambda done, total, note: None)
    unknown = UnSegOptions(generator_init=f"sha256:{'1' * 64}")
    with pytest.raises(EnvironmentFault, match="give the path of the file again, or save it as"):
        UnSeg(unknown).prepare(lambda done, total, note: None)


# ---- SAM -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SAM_ENCODERS)
def test_the_generator_without_noise_parts_is_sam_by_name_and_shape(name: str) -> None:
    geometry = UnSeg.resolve_options("paper", {"generator_init": name}).generator
    with torch.device("meta"):
        ours, sam = NoiseSam(geometry), sam_model_registry[SAM_ENCODERS[name]]()
    shapes = {key: value.shape for key, value in ours.state_dict().items() if "noise_" not in key}
    assert shapes == {key: value.shape for key, value in sam.state_dict().items()}


def test_sam_is_loaded_tensor_by_tensor_and_the_noise_parts_stay_as_drawn(sam_file: Path) -> None:
    given = {"generator_init": str(sam_file), "generator": TINY_SAM, "surrogate": TINY_SAM}
    options = UnSeg.resolve_options("ci", given)
    assert options.trainable == "noise"
    generator, _ = build_networks(options, 0, "cpu")
    drawn, _ = build_networks(options.model_copy(update={"generator_init": "random"}), 0, "cpu")
    sam = torch.load(sam_file)
    for name, value in generator.state_dict().items():
        expected = drawn.state_dict()[name] if "noise_" in name else sam[name]
        assert torch.equal(value, expected), name
    assert {name for name, p in generator.named_parameters() if p.requires_grad} == {
        name for name, _ in generator.named_parameters() if "noise_" in name
    }


def test_our_encoder_sees_what_sam_s_sees(sam_file: Path) -> None:
    sam, generator = tiny_sam(), NoiseSam(Geometry(**TINY_SAM))
    line = load_sam(generator, sam_file, "tiny")
    assert line == f"generator: {len(sam.state_dict())} tensors from tiny; 45 of the noise parts as drawn"
    image = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        ours = generator.image_encoder(generator.normalize(image))
        theirs = sam.image_encoder((255 * image - sam.pixel_mean) / sam.pixel_std)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("wrapper", ["plain", "model", "state_dict", "module", "safetensors"])
def test_wrapped_checkpoints_are_unwrapped(tmp_path: Path, wrapper: str) -> None:
    state = tiny_sam().state_dict()
    path = tmp_path / "weights"
    if wrapper == "safetensors":
        from safetensors.torch import save_file

        save_file({name: value.contiguous() for name, value in state.items()}, path)
    elif wrapper == "module":
        saved({"epoch": 3, "model": {f"module.{name}": value for name, value in state.items()}}, path)
    else:
        saved(state if wrapper == "plain" else {wrapper: state, "epoch": 3}, path)
    found = read_state_dict(path)
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], value) for name, value in state.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": 3}, "14 extra: image_encoder.blocks.2.attn.proj.bias"),
        ({"depth": 1}, "14 missing: image_encoder.blocks.1.attn.proj.bias"),
        ({"mask_channels": 16}, "prompt_encoder.mask_downscaling.0.bias is (4,) and should be (2,)"),
        ({"num_heads": 4}, "rel_pos_h is (7, 2) and should be (7, 4)"),
        ({"global_blocks": (1,)}, "blocks.0.attn.rel_pos_h is (3, 4) and should be (7, 4)"),
    ],
)
def test_a_sam_of_another_geometry_is_refused_in_one_line(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = saved(tiny_sam(**change).state_dict(), tmp_path / "other.pth")
    options = UnSeg.resolve_options(
        "ci", {"generator_init": str(path), "generator": TINY_SAM, "surrogate": TINY_SAM}
    )
    with pytest.raises(UsageError) as caught:
        build_networks(options, 0, "cpu")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_training_from_sam_moves_the_noise_parts_alone(sam_file: Path) -> None:
    options = UnSeg.resolve_options(
        "ci",
        {"generator_init": str(sam_file), "generator": TINY_SAM, "surrogate": TINY_SAM, "surrogate_every": 2},
    )
    training = Training(options, 0, "cpu")
    mask = torch.zeros(2, 1, 16, 16)
    mask[..., 2:12, 3:13] = 1
    while training.step < 6:
        training.advance(torch.rand(2, 3, 16, 16), mask)
    after, sam = training.generator.state_dict(), torch.load(sam_file)
    assert all(torch.equal(after[name], value) for name, value in sam.items())


@pytest.mark.slow
def test_sam_s_vit_b_at_full_size_is_loaded_from_a_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sam = sam_model_registry["vit_b"](checkpoint=None).state_dict()
    path = saved(sam, tmp_path / "sam_vit_b.pth")
    options = UnSeg.resolve_options("paper", {"generator_init": str(path), "surrogate_init": "random"})
    path.unlink()
    surrogate = {"surrogate": Geometry(**TINY_SAM)}
    generator, _ = build_networks(options.model_copy(update=surrogate), 0, "cpu")
    state = generator.state_dict()
    assert all(torch.equal(state[name], value) for name, value in sam.items())
    trained = [p for p in generator.parameters() if p.requires_grad]
    assert sum(p.numel() for p in trained) == 7_252_544


# ---- MobileSAM -----------------------------------------------------------------------------------


def mobile_sam_encoder() -> dict[str, tuple[int, ...]]:
    """Names and shapes in the state dict of MobileSAM's image encoder, from its published description."""
    layout: dict[str, tuple[int, ...]] = {}

    def normed(name: str, width: int) -> None:
        layout[f"{name}.weight"] = layout[f"{name}.bias"] = (width,)

    def linear(name: str, target: int, source: int) -> None:
        layout[f"{name}.weight"], layout[f"{name}.bias"] = (target, source), (target,)

    def conv_bn(name: str, target: int, source: int, kernel: int) -> None:
        layout[f"{name}.c.weight"] = (target, source, kernel, kernel)
        normed(f"{name}.bn", target)
        layout[f"{name}.bn.running_mean"] = layout[f"{name}.bn.running_var"] = (target,)
        layout[f"{name}.bn.num_batches_tracked"] = ()

    dims, depths, heads, windows = (64, 128, 160, 320), (2, 2, 6, 2), (2, 4, 5, 10), (7, 7, 14, 7)
    conv_bn("patch_embed.seq.0", 32, 3, 3)
    conv_bn("patch_embed.seq.2", 64, 32, 3)
    for i, (dim, depth) in enumerate(zip(dims, depths, strict=True)):
        for j in range(depth):
            block = f"layers.{i}.blocks.{j}"
            if i == 0:
                conv_bn(f"{block}.conv1", 4 * dim, dim, 1)
                conv_bn(f"{block}.conv2", 4 * dim, 1, 3)
                conv_bn(f"{block}.conv3", dim, 4 * dim, 1)
                continue
            layout[f"{block}.attn.attention_biases"] = (heads[i], windows[i] ** 2)
            normed(f"{block}.attn.norm", dim)
            linear(f"{block}.attn.qkv", 3 * dim, dim)
            linear(f"{block}.attn.proj", dim, dim)
            normed(f"{block}.mlp.norm", dim)
            linear(f"{block}.mlp.fc1", 4 * dim, dim)
            linear(f"{block}.mlp.fc2", dim, 4 * dim)
            conv_bn(f"{block}.local_conv", dim, 1, 3)
        if i < 3:
            conv_bn(f"layers.{i}.downsample.conv1", dims[i + 1], dim, 1)
            conv_bn(f"layers.{i}.downsample.conv2", dims[i + 1], 1, 3)
            conv_bn(f"layers.{i}.downsample.conv3", dims[i + 1], dims[i + 1], 1)
    normed("norm_head", 320)
    linear("head", 1000, 320)
    layout["neck.0.weight"], layout["neck.2.weight"] = (256, 320, 1, 1), (256, 256, 3, 3)
    normed("neck.1", 256)
    normed("neck.3", 256)
    return layout


@pytest.fixture
def mobile_sam() -> dict[str, torch.Tensor]:
    """A whole MobileSAM with random weights."""
    rng = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        sam = sam_model_registry["vit_b"]().state_dict()
    shapes = {f"image_encoder.{name}": shape for name, shape in mobile_sam_encoder().items()}
    shapes |= {name: tuple(v.shape) for name, v in sam.items() if not name.startswith("image_encoder.")}
    return {
        name: torch.tensor(7) if shape == () else torch.rand(shape, generator=rng) * 0.1 + 0.05
        for name, shape in shapes.items()
    }


def test_mobile_sam_s_layout_fits_with_nothing_left_over(
    mobile_sam: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    assert len(mobile_sam_encoder()) == 302
    options = UnSeg.resolve_options("cpu", {"generator_init": "mobile_sam"})
    generator = NoiseSam(options.generator)
    path = saved(mobile_sam, tmp_path / "mobile_sam.pt")
    # 302 of the encoder, without the classifier's four, and SAM's own prompt encoder and mask decoder.
    line = load_sam(generator, path, "mobile_sam")
    assert line.startswith(f"generator: {len(mobile_sam) - 4} tensors from mobile_sam;")
    state = generator.image_encoder.state_dict()
    for theirs, ours in (
        ("patch_embed.seq.2.bn.running_var", "trunk.patch_embed.conv2.bn.running_var"),
        ("layers.0.downsample.conv2.c.weight", "trunk.stages.1.downsample.conv2.conv.weight"),
        ("layers.2.downsample.conv1.bn.bias", "trunk.stages.3.downsample.conv1.bn.bias"),
        ("layers.2.blocks.5.attn.attention_biases", "trunk.stages.2.blocks.5.attn.attention_biases"),
        ("neck.3.bias", "neck.3.bias"),
    ):
        assert torch.equal(state[ours], mobile_sam[f"image_encoder.{theirs}"])


def test_an_incomplete_mobile_sam_is_refused(mobile_sam: dict[str, torch.Tensor], tmp_path: Path) -> None:
    del mobile_sam["image_encoder.layers.3.blocks.1.mlp.fc2.bias"]
    generator = NoiseSam(Geometry(encoder="tiny_vit"))
    with pytest.raises(UsageError, match=r"1 missing: image_encoder.trunk.stages.3.blocks.1.mlp.fc2.bias"):
        load_sam(generator, saved(mobile_sam, tmp_path / "mobile_sam.pt"), "mobile_sam")
    vit = NoiseSam(Geometry(**TINY_SAM))
    with pytest.raises(UsageError, match="does not fit the generator's geometry"):
        load_sam(vit, tmp_path / "mobile_sam.pt", "mobile_sam")


def test_the_classifier_and_the_index_table_are_left_out() -> None:
    state = {"head.bias": 1, "norm_head.bias": 1, "layers.1.blocks.0.attn.attention_bias_idxs": 1}
    assert from_mobile_sam(state) == {}


@pytest.fixture(scope="module")
def tiny_vit_options() -> UnSegOptions:
    geometry = {"encoder": "tiny_vit", "image_size": 64, "decoder_dim": 16, "decoder_heads": 2}
    return UnSeg.resolve_options("ci", {"generator": geometry, "surrogate": TINY_SAM, "batch_size": 1})


def test_tiny_vit_gives_noise_of_four_cells_to_a_token(tiny_vit_options: UnSegOptions) -> None:
    generator = NoiseSam(tiny_vit_options.generator)
    prompts = Prompts(masks=255 * torch.ones(2, 1, 16, 16))
    noise = generator(torch.rand(2, 3, 64, 64), prompts)
    assert noise.shape == (2, 3, 16, 16)
    assert noise.std() > 0


def test_a_frozen_tiny_vit_stays_as_it_is_in_training(tiny_vit_options: UnSegOptions) -> None:
    training = Training(tiny_vit_options.model_copy(update={"trainable": "noise"}), 0, "cpu")
    before = {name: value.clone() for name, value in training.generator.image_encoder.state_dict().items()}
    assert any(name.endswith("running_var") for name in before)
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 8:40, 8:50] = 1
    while training.step < 4:
        training.advance(torch.rand(1, 3, 64, 64), mask)
    after = training.generator.image_encoder.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_tiny_vit_has_one_shape() -> None:
    with pytest.raises(ValidationError, match="leave embed_dim, depth out"):
        Geometry(encoder="tiny_vit", embed_dim=64, depth=3)
    with pytest.raises(ValidationError, match="no multiple of patch_size 16"):
        Geometry(encoder="tiny_vit", image_size=100)
    assert UnSeg.resolve_options("cpu", {"generator": {"encoder": "tiny_vit"}}).generator == Geometry(
        encoder="tiny_vit"
    )


# ---- MAE -----------------------------------------------------------------------------------------

MAE = {"patch_size": 4, "embed_dim": 8, "depth": 2, "num_heads": 2}


def mae(side: int, class_token: bool = True) -> VisionTransformer:
    """A vision transformer as MAE publishes it, with random weights everywhere."""
    torch.manual_seed(3)
    network = VisionTransformer(
        img_size=side,
        **MAE,
        num_classes=0,
        class_token=class_token,
        global_pool="token" if class_token else "avg",
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
    )
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    return network


def test_mae_is_loaded_without_class_token_and_with_its_positions_interpolated(tmp_path: Path) -> None:
    state = mae(32).state_dict()
    path = saved({"model": state}, tmp_path / "mae.pth")
    surrogate = ScratchSam(Geometry(**TINY_SAM | MAE))
    before = {name: value.clone() for name, value in surrogate.state_dict().items()}
    line = load_mae(surrogate, path, "mae tiny")
    after = surrogate.state_dict()
    moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
    kept = {name for name in before if not name.startswith("image_encoder.") or ".neck." in name}
    kept |= {name for name in before if ".rel_pos_" in name}
    assert moved == before.keys() - kept
    assert line.startswith(f"surrogate: {len(moved)} tensors from mae tiny, positions on a 4x4 grid; neck,")
    assert torch.equal(after["image_encoder.blocks.1.mlp.lin2.weight"], state["blocks.1.mlp.fc2.weight"])
    grid = state["pos_embed"][:, 1:].reshape(1, 8, 8, 8).permute(0, 3, 1, 2)
    expected = F.interpolate(grid, size=(4, 4), mode="bicubic").permute(0, 2, 3, 1)
    assert torch.equal(after["image_encoder.pos_embed"], expected)


def test_our_blocks_compute_what_mae_s_do(tmp_path: Path) -> None:
    """On a grid of the same size, without a class token, which has no place in our encoder."""
    theirs = mae(16, class_token=False).eval()
    geometry = Geometry(**TINY_SAM | MAE | {"relative_positions": False, "global_blocks": (0, 1)})
    surrogate = ScratchSam(geometry)
    load_mae(surrogate, saved({"model": theirs.state_dict()}, tmp_path / "mae.pth"), "mae tiny")
    image = torch.rand(2, 3, 16, 16)
    encoder = surrogate.image_encoder
    with torch.no_grad():
        tokens = encoder.patch_embed(image) + encoder.pos_embed
        for block in encoder.blocks:
            tokens = block(tokens)
        x = theirs.blocks(theirs._pos_embed(theirs.patch_embed(image)))
    torch.testing.assert_close(tokens.flatten(1, 2), x, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("class_token", [0, 1])
def test_positions_on_their_own_grid_stay_the_same(class_token: int) -> None:
    positions = torch.rand(1, 9 + class_token, 5)
    same = resize_positions(positions, 3)
    assert torch.equal(same, positions[:, class_token:].reshape(1, 3, 3, 5))
    assert resize_positions(torch.ones(1, 9, 2), 7).allclose(torch.ones(1, 7, 7, 2))
    for shape in ((1, 12, 5), (1, 3, 3, 5), (9,)):
        with pytest.raises(UsageError, match="no square grid"):
            resize_positions(torch.rand(shape), 3)


@pytest.mark.parametrize(
    ("surrogate", "message"),
    [
        ({"depth": 3}, "missing: blocks.2.attn.proj.bias"),
        ({"depth": 1}, "extra: blocks.1.attn.proj.bias"),
        ({"embed_dim": 16}, "misshapen: blocks.0.attn.proj.bias is (8,) and should be (16,)"),
    ],
)
def test_an_mae_of_another_geometry_is_refused(
    tmp_path: Path, surrogate: dict[str, Any], message: str
) -> None:
    path = saved({"model": mae(32).state_dict()}, tmp_path / "mae.pth")
    with pytest.raises(UsageError) as caught:
        load_mae(ScratchSam(Geometry(**TINY_SAM | MAE | surrogate)), path, "mae tiny")
    assert message in str(caught.value)


def test_what_is_no_mae_is_refused(tmp_path: Path, sam_file: Path) -> None:
    options = UnSeg.resolve_options("ci", {"surrogate_init": str(sam_file), "surrogate": TINY_SAM})
    with pytest.raises(UsageError, match="is no vision transformer of MAE's"):
        build_networks(options, 0, "cpu")


def test_a_fit_starts_from_both(tmp_path: Path, sam_file: Path, capsys: pytest.CaptureFixture) -> None:
    mae_file = saved({"model": mae(32).state_dict()}, tmp_path / "mae.pth")
    given = {"generator_init": str(sam_file), "surrogate_init": str(mae_file)}
    options = UnSeg.resolve_options("ci", {**given, "generator": TINY_SAM, "surrogate": TINY_SAM | MAE})
    generator, surrogate = build_networks(options, 0, "cpu")
    state = torch.load(mae_file)["model"]
    assert torch.equal(surrogate.image_encoder.blocks[0].norm1.weight, state["blocks.0.norm1.weight"])
    assert torch.equal(generator.image_encoder.pos_embed, torch.load(sam_file)["image_encoder.pos_embed"])
    said = capsys.readouterr().out.splitlines()
    assert [line.split(":")[1].strip() for line in said] == ["generator", "surrogate"]


# ---- reports -------------------------------------------------------------------------------------


def test_a_comparison_names_the_first_and_counts_the_rest() -> None:
    network = {name: torch.zeros(2) for name in "abcdef"}
    state = {"a": torch.zeros(3), "x": torch.zeros(1), "pixel_mean": torch.zeros(3)}
    comparison = compare(state, network)
    assert not comparison.fits
    assert comparison.ignored == ("pixel_mean",)
    assert str(comparison) == (
        "1 misshapen: a is (3,) and should be (2,); 5 missing: b, c, d and 2 more; 1 extra: x"
    )
    assert compare(network, network).fits
