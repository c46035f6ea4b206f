"""What victims on SAM share: shapes, options, weights, and decoding many prompts at once."""

from __future__ import annotations

import urllib.request
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from segment_anything.modeling.image_encoder import ImageEncoderViT
from segment_anything.modeling.mask_decoder import MaskDecoder

from bench import cache
from bench.errors import EnvironmentFault, SpecError, UsageError
from protectors.unseg import checkpoints
from protectors.unseg.options import Geometry
from victims import sam, sam_modules
from victims.rsprompter import RSPrompter
from victims.sam_hq import SamHQ

TINY = Geometry(
    image_size=32,
    patch_size=4,
    embed_dim=16,
    depth=3,
    num_heads=2,
    window_size=4,
    global_blocks=(1, 2),
    decoder_dim=32,
    decoder_heads=4,
    decoder_mlp_dim=32,
)
VICTIMS = (SamHQ, RSPrompter)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def stir(module: torch.nn.Module) -> torch.nn.Module:
    """Random numbers for the parameters that start at zero, so that a forgotten one is noticed."""
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return module


def test_published_shapes_are_those_of_the_catalogue():
    assert sam.PUBLISHED["vit_b"] == Geometry()
    large, huge = sam.PUBLISHED["vit_l"], sam.PUBLISHED["vit_h"]
    assert (large.embed_dim, large.depth, large.num_heads, large.global_blocks) == (
        1024,
        24,
        16,
        (5, 11, 17, 23),
    )
    assert (huge.embed_dim, huge.depth, huge.num_heads, huge.global_blocks) == (1280, 32, 16, (7, 15, 23, 31))
    assert {shape.image_size for shape in sam.PUBLISHED.values()} == {1024}


@pytest.mark.parametrize("victim", VICTIMS)
def test_an_encoder_brings_its_shape_and_stem(victim):
    options = victim.resolve_options("cpu", {"encoder": "vit_b"})
    assert options.geometry == Geometry() and options.stem == "patch"
    paper = victim.resolve_options("paper", {})
    assert paper.geometry == sam.PUBLISHED[paper.encoder] and paper.frozen_encoder and paper.stem == "patch"
    compact = victim.resolve_options("paper", {"encoder": "compact", "geometry": {"image_size": 96}})
    assert compact.geometry == Geometry(**{**sam.COMPACT, "image_size": 96})
    part = victim.resolve_options("ci", {"geometry": {"image_size": 96}}).geometry
    assert part == victim.resolve_options("ci", {}).geometry.model_copy(update={"image_size": 96})
    assert victim.resolve_options("cpu", {"frozen_encoder": True}).stem == "patch"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"encoder": "vit_b", "geometry": {"image_size": 512}}, "has a geometry of its own"),
        ({"encoder": "vit_b", "stem": "convolutional"}, "leave stem out"),
        ({"frozen_encoder": True, "stem": "convolutional"}, "leave stem out"),
        ({"jitter": (2.0, 1.0)}, "no range"),
        ({"colour": "red"}, "extra"),
    ],
)
@pytest.mark.parametrize("victim", VICTIMS)
def test_options_that_do_not_fit_are_refused(victim, given, message):
    with pytest.raises(ValidationError, match=message):
        victim.resolve_options("cpu", given)


def test_weights_to_start_from():
    def options(**given: Any) -> Any:
        return SamHQ.resolve_options("cpu", given)

    reference = "sha256:" + "0" * 64
    assert sam.starting_weights(options(), "scratch", "sam_hq") is None
    meta = sam.starting_weights(options(encoder="vit_l"), "sam", "sam_hq")
    assert meta == checkpoints.CATALOGUE["sam_vit_l"].reference
    assert sam.starting_weights(options(weights=reference), "sam", "sam_hq") == reference
    with pytest.raises(SpecError, match="add the option encoder=vit_b"):
        sam.starting_weights(options(), "sam", "sam_hq")
    with pytest.raises(SpecError, match="for --init sam"):
        sam.starting_weights(options(weights=reference), "scratch", "sam_hq")


@pytest.mark.parametrize("wanted", [(0, 1, 2, 3), (2,)])
def test_encoding_is_the_encoders_own_and_states_are_those_between_its_blocks(wanted):
    encoder = stir(sam_modules.build_encoder(TINY, "patch", frozen=False))
    seen: list[torch.Tensor] = []
    encoder.blocks[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    for block in encoder.blocks:
        block.register_forward_hook(lambda module, inputs, output: seen.append(output))
    images = torch.randn(2, 3, 32, 32)
    states, embedding = sam_modules.encode(encoder, images, wanted)
    assert len(states) == len(wanted)
    for number, state in zip(wanted, states, strict=True):
        assert torch.equal(state, seen[number].permute(0, 3, 1, 2))
    assert torch.allclose(embedding, ImageEncoderViT.forward(encoder, images), atol=1e-6)
    assert sam_modules.first_global_state(encoder) == 2


def test_a_frozen_encoder_leaves_no_graph():
    encoder = sam_modules.build_encoder(TINY, "patch", frozen=True)
    states, embedding = sam_modules.encode(encoder, torch.randn(1, 3, 32, 32), (1,))
    assert not (states[0].requires_grad or embedding.requires_grad)


def test_a_convolutional_stem_gives_the_tokens_of_a_patch_embedding():
    for patch in (2, 4, 8):
        shape = TINY.model_copy(update={"patch_size": patch})
        encoder = sam_modules.build_encoder(shape, "convolutional", frozen=False)
        assert encoder.patch_embed(torch.randn(2, 3, 32, 32)).shape == (2, 32 // patch, 32 // patch, 16)
    with pytest.raises(UsageError, match="2, 4, 8"):
        sam_modules.ConvolutionalStem(6, 16)


def test_many_prompts_at_once_are_decoded_as_segment_anything_decodes_each():
    decoder = stir(sam_modules.build_decoder(TINY, frozen=False))
    embedding, position = torch.randn(3, 32, 8, 8), torch.randn(1, 32, 8, 8)
    sparse, dense = torch.randn(3, 5, 32), torch.randn(3, 32, 8, 8)
    found = sam_modules.decode_masks(decoder, embedding, position, sparse, dense)
    assert found.shape == (3, 32, 32)
    for row in range(3):
        expected, _ = MaskDecoder.forward(
            decoder,
            embedding[row, None],
            position,
            sparse[row, None],
            dense[row, None],
            multimask_output=False,
        )
        assert torch.allclose(found[row], expected[0, 0], rtol=1e-4, atol=1e-4)


def test_frozen_parts_and_unread_outputs_take_no_gradient():
    assert not any(p.requires_grad for p in sam_modules.build_decoder(TINY, frozen=True).parameters())
    decoder = sam_modules.build_decoder(TINY, frozen=False)
    still = {name for name, p in decoder.named_parameters() if not p.requires_grad}
    assert {name.split(".")[0] for name in still} == {"iou_prediction_head", "output_hypernetworks_mlps"}
    assert not any(name.startswith("output_hypernetworks_mlps.0.") for name in still)


def sam_file(folder: Path, change: dict[str, Any] | None = None) -> tuple[dict[str, torch.Tensor], str]:
    """A checkpoint of the tiny SAM, as Meta's are laid out, imported into the cache."""
    parts = {
        "image_encoder": sam_modules.build_encoder(TINY, "patch", frozen=False),
        "prompt_encoder": sam_modules.build_prompt_encoder(TINY, frozen=False),
        "mask_decoder": sam_modules.build_decoder(TINY, frozen=False),
    }
    state = {f"{k}.{n}": t for k, part in parts.items() for n, t in stir(part).state_dict().items()}
    state |= {"pixel_mean": torch.zeros(3, 1, 1)} | (change or {})
    path = folder / "tiny.pth"
    torch.save(state, path)
    return state, cache.PREFIX + cache.import_file(path)


def test_weights_may_be_given_by_path(own_cache):
    path = own_cache / "mine.pth"
    path.write_bytes(b"weights")
    options = SamHQ.resolve_options("cpu", {"weights": str(path)})
    assert options.weights == cache.PREFIX + cache.file_digest(path)
    assert cache.find(options.weights.removeprefix(cache.PREFIX)).read_bytes() == b"weights"
    with pytest.raises(SpecError, match="neither a file nor"):
        SamHQ.resolve_options("cpu", {"weights": str(own_cache / "nothing.pth")})


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_weights_of_a_file_reach_every_tensor(own_cache):
    state, reference = sam_file(own_cache)
    encoder = sam_modules.build_encoder(TINY, "patch", frozen=True)
    decoder = sam_modules.build_decoder(TINY, frozen=True)
    sam_modules.load_sam({"image_encoder": encoder, "mask_decoder": decoder}, reference)
    for part, module in (("image_encoder", encoder), ("mask_decoder", decoder)):
        for name, tensor in module.state_dict().items():
            assert torch.equal(tensor, state[f"{part}.{name}"]), name


def test_weights_of_another_shape_are_refused(own_cache):
    _, reference = sam_file(own_cache, {"mask_decoder.iou_token.weight": torch.zeros(1, 8)})
    with pytest.raises(UsageError, match=r"1 misshapen: mask_decoder.iou_token.weight is \(1, 8\)"):
        sam_modules.load_sam({"mask_decoder": sam_modules.build_decoder(TINY, frozen=True)}, reference)


def test_missing_weights_are_named_with_url_hash_and_place(own_cache, monkeypatch):
    def unreachable(*args: Any, **kwargs: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    file = checkpoints.CATALOGUE["sam_vit_l"].file
    with pytest.raises(EnvironmentFault) as caught:
        sam_modules.load_sam({}, checkpoints.CATALOGUE["sam_vit_l"].reference)
    for part in (file.url, file.sha256, str(own_cache / "cache")):
        assert part in str(caught.value)
