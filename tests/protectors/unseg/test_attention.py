"""The faster forms of SAM's attention compute what segment-anything's own does, gradients included."""

from __future__ import annotations

import copy

import pytest
import torch
from segment_anything.modeling.image_encoder import Attention, ImageEncoderViT

from protectors.unseg import attention
from protectors.unseg.attention import RelativeAttention, use_fast_attention


def pair(height: int, width: int, relative: bool = True, heads: int = 3) -> tuple[Attention, Attention]:
    torch.manual_seed(0)
    slow = Attention(24, heads, use_rel_pos=relative, input_size=(height, width) if relative else None)
    for parameter in slow.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    fast = copy.deepcopy(slow)
    fast.__class__ = RelativeAttention
    return slow, fast


@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize(("height", "width"), [(5, 7), (14, 14), (1, 3)])
def test_values_and_gradients_are_equal(height: int, width: int, relative: bool) -> None:
    slow, fast = (module.double() for module in pair(height, width, relative))
    x = torch.randn(2, height, width, 24, dtype=torch.float64)
    results = []
    for module in (slow, fast):
        leaf = x.clone().requires_grad_()
        out = module(leaf)
        out.square().sum().backward()
        results.append((out, leaf.grad, [p.grad for p in module.parameters()]))
    (out, grad, parameters), (other, other_grad, other_parameters) = results
    torch.testing.assert_close([other, other_grad, *other_parameters], [out, grad, *parameters])


def test_bands_give_the_same_without_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    slow, fast = pair(6, 7)
    x = torch.randn(2, 6, 7, 24)
    calls = []
    real = attention.banded
    monkeypatch.setattr(attention, "banded", lambda *given: calls.append(1) or real(*given))
    monkeypatch.setattr(attention, "BANDED_TOKENS", 40)
    monkeypatch.setattr(attention, "QUERY_ROWS", 16)  # 42 tokens: two whole bands and a rest
    with torch.inference_mode():
        torch.testing.assert_close(fast(x), slow(x), atol=1e-5, rtol=1e-5)
    assert calls == [1]
    fast(x).sum().backward()
    assert calls == [1]


def test_a_whole_encoder_keeps_its_parameters_and_its_output() -> None:
    torch.manual_seed(0)
    slow = ImageEncoderViT(
        img_size=64, patch_size=4, embed_dim=24, depth=3, num_heads=2, out_chans=16, qkv_bias=True,
        use_rel_pos=True, window_size=5, global_attn_indexes=(1,),
    ).eval()  # fmt: skip
    for name, parameter in slow.named_parameters():
        if "rel_pos" in name or "pos_embed" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    fast = copy.deepcopy(slow)
    use_fast_attention(fast)
    assert all(type(block.attn) is RelativeAttention for block in fast.blocks)
    assert fast.state_dict().keys() == slow.state_dict().keys()
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(fast(image), slow(image), atol=1e-5, rtol=1e-5)
