"""Compares SAM-HQ's decoder with segment-anything-hq's, on the same weights and prompts; prints the differences.

A process of its own, because importing segment-anything-hq overwrites entries of timm's registry.
"""

from __future__ import annotations

import sys
import warnings

import torch

warnings.simplefilter("ignore")


def main() -> None:
    from segment_anything_hq.modeling.image_encoder import ImageEncoderViT
    from segment_anything_hq.modeling.mask_decoder_hq import MaskDecoderHQ
    from segment_anything_hq.modeling.transformer import TwoWayTransformer

    from bench.training.environment import prepare
    from protectors.unseg.options import Geometry
    from protectors.unseg.prompts import Prompts
    from protectors.unseg.sam import encode_grid, encode_prompts

    prepare("mmseg", ("victims.sam_hq_model",))
    from victims.sam_hq_model import SamHQSegmentor

    torch.set_num_threads(1)
    torch.manual_seed(0)
    shape = Geometry(
        image_size=64, embed_dim=96, depth=4, num_heads=3, window_size=3, global_blocks=(1, 3), patch_size=8
    )
    model = SamHQSegmentor(shape.model_dump(), "patch", False, False, None, None, None)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    encoder = ImageEncoderViT(
        img_size=64,
        patch_size=8,
        embed_dim=96,
        depth=4,
        num_heads=3,
        out_chans=256,
        norm_layer=lambda width: torch.nn.LayerNorm(width, eps=1e-6),
        use_rel_pos=True,
        window_size=3,
        global_attn_indexes=(1, 3),
    )
    decoder = MaskDecoderHQ(
        transformer_dim=256,
        transformer=TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8),
        vit_dim=96,
    )
    encoder.load_state_dict(model.image_encoder.state_dict())
    decoder.load_state_dict(model.mask_decoder.state_dict())
    images = torch.randn(3, 3, 64, 64)
    boxes = torch.tensor([[3.0, 5, 40, 60], [0, 0, 63, 63], [10, 20, 30, 25]])
    points = torch.randint(0, 64, (3, 10, 2)).float()
    masks = 255.0 * torch.randint(0, 2, (3, 1, 32, 32)).float()
    with torch.no_grad():
        early, embedding = model._encode(images)
        expected_embedding, intermediate = encoder(images)
        print((embedding - expected_embedding).abs().max().item())
        for prompts in (Prompts(boxes=boxes), Prompts(points=points), Prompts(masks=masks)):
            found = model.masks(early, embedding, prompts)
            for row in range(3):
                sparse, dense = encode_prompts(model.prompt_encoder, prompts.rows(row, row + 1))
                expected, _ = decoder(
                    image_embeddings=expected_embedding[row, None],
                    image_pe=encode_grid(model.prompt_encoder),
                    sparse_prompt_embeddings=sparse,
                    dense_prompt_embeddings=dense,
                    multimask_output=False,
                    hq_token_only=True,
                    interm_embeddings=[intermediate[0][row, None]],
                )
                # The scale of the logits, so that a difference means something.
                print((found[row] - expected[0]).abs().max().item(), expected.abs().max().item())


if __name__ == "__main__":
    sys.exit(main())
