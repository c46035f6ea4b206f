"""SAM-HQ (Ke et al., NeurIPS 2023) as an mmengine model. Imports torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.model import BaseModel
from mmengine.registry import MODELS
from mmengine.structures import PixelData
from segment_anything.modeling.common import LayerNorm2d
from segment_anything.modeling.mask_decoder import MLP, MaskDecoder
from torch import Tensor, nn
from torch.nn import functional

from bench.datasets.base import VOID
from protectors.unseg.losses import draw_candidates, sample_at, segmentation_loss, uncertain_points
from protectors.unseg.options import Geometry
from protectors.unseg.prompts import POINTS, Prompts, make_prompts
from protectors.unseg.sam import encode_grid, encode_prompts, full_precision, two_way_transformer
from victims import sam_modules

HQ_PARTS = ("hf_token", "hf_mlp", "compress_vit_feat", "embedding_encoder", "embedding_maskfeature")
"""What SAM-HQ adds to SAM's mask decoder, by the names of the authors' checkpoints."""

CERTAINLY_NOT = -50.0
"""A logit whose loss against background is zero."""


class HQMaskDecoder(MaskDecoder):
    """SAM's mask decoder with a high-quality output token, which is all that is read out.

    The mask of the token is taken from the sum of three maps: SAM's own mask features, its final image
    embedding and the features of its first block with global attention.

    Args:
        geometry: Shape of SAM.
        frozen: Whether SAM's own parts take no gradient. Those that no mask here is read from never do.
    """

    def __init__(self, geometry: Geometry, frozen: bool) -> None:
        dim = geometry.decoder_dim
        super().__init__(
            transformer_dim=dim, transformer=two_way_transformer(geometry), iou_head_hidden_dim=dim
        )
        self.requires_grad_(not frozen)
        self.iou_prediction_head.requires_grad_(False)
        self.output_hypernetworks_mlps.requires_grad_(False)
        self.hf_token = nn.Embedding(1, dim)
        self.hf_mlp = MLP(dim, dim, dim // 8, 3)
        self.compress_vit_feat = _upscaling(geometry.embed_dim, dim, dim // 8)
        self.embedding_encoder = _upscaling(dim, dim // 4, dim // 8)
        self.embedding_maskfeature = nn.Sequential(
            nn.Conv2d(dim // 8, dim // 4, 3, padding=1),
            LayerNorm2d(dim // 4),
            nn.GELU(),
            nn.Conv2d(dim // 4, dim // 8, 3, padding=1),
        )

    def forward(
        self, early: Tensor, embedding: Tensor, position: Tensor, sparse: Tensor, dense: Tensor
    ) -> Tensor:
        """The mask of each of `N` prompted objects.

        Args:
            early: `(N, embed_dim, T, T)` features of the first block with global attention.
            embedding: `(N, C, T, T)` image embedding.
            position: `(1, C, T, T)` positional encoding of the grid.
            sparse: `(N, P, C)` embedded points and boxes.
            dense: `(N, C, T, T)` embedded mask prompt.

        Returns:
            `(N, 1, 4 T, 4 T)` logits.
        """
        own = torch.cat([self.iou_token.weight, self.mask_tokens.weight, self.hf_token.weight])
        outputs, features = sam_modules.attend(self, own, embedding, position, sparse, dense)
        features = (
            self.embedding_maskfeature(features)
            + self.embedding_encoder(embedding)
            + self.compress_vit_feat(early)
        )
        weights = self.hf_mlp(outputs[:, len(own) - 1])
        return torch.einsum("nc,nchw->nhw", weights, features)[:, None]


def _upscaling(source: int, middle: int, target: int) -> nn.Sequential:
    """Two transposed convolutions that quadruple the side."""
    return nn.Sequential(
        nn.ConvTranspose2d(source, middle, 2, stride=2),
        LayerNorm2d(middle),
        nn.GELU(),
        nn.ConvTranspose2d(middle, target, 2, stride=2),
    )


@MODELS.register_module()
class SamHQSegmentor(BaseModel):
    """SAM with the high-quality mask decoder: one prompted object per image.

    In training every image gets one prompt, drawn from a box, ten points and a noisy mask of its object; in
    evaluation the box that comes with it as `prompt_box`. Images without an object have no prompt: they do not
    count in the loss, and their prediction is empty.

    Args:
        geometry: Fields of `Geometry`.
        stem: See `SamOptions`.
        frozen_encoder: See `SamOptions`.
        frozen_decoder: See `SamOptions`.
        points: Points per mask at which the loss is taken; None: every pixel of the mask's grid.
        pretrained: `sha256:` of the weights to start from, or None.
        data_preprocessor: Config; makes squares of `geometry.image_size` pixels.
    """

    def __init__(
        self,
        geometry: dict[str, Any],
        stem: str,
        frozen_encoder: bool,
        frozen_decoder: bool,
        points: int | None,
        pretrained: str | None,
        data_preprocessor: dict[str, Any],
    ) -> None:
        super().__init__(data_preprocessor=data_preprocessor)
        self.geometry = sam_modules.geometry_of(geometry)
        self.image_encoder = sam_modules.build_encoder(self.geometry, stem, frozen_encoder)
        self.prompt_encoder = sam_modules.build_prompt_encoder(self.geometry, frozen_decoder)
        # Points that are not on an object are no prompt here.
        self.prompt_encoder.point_embeddings[0].requires_grad_(False)
        self.mask_decoder = HQMaskDecoder(self.geometry, frozen_decoder)
        self.points = points
        self._pretrained = pretrained

    def init_weights(self) -> None:
        """Loads SAM's weights where they are asked for.

        Raises:
            EnvironmentFault: They are neither in the cache nor reachable.
        """
        super().init_weights()
        if self._pretrained is not None:
            parts = {
                "image_encoder": self.image_encoder,
                "prompt_encoder": self.prompt_encoder,
                "mask_decoder": self.mask_decoder,
            }
            own = [f"mask_decoder.{part}." for part in HQ_PARTS]
            sam_modules.load_sam(parts, self._pretrained, own)

    def forward(self, inputs: Tensor, data_samples: Any = None, mode: str = "tensor") -> Any:
        """The losses (`loss`), the data samples with `pred_sem_seg` (`predict`), or the image embedding.

        Args:
            inputs: `(B, 3, S, S)`, normalised.
            data_samples: mmseg's, with `gt_sem_seg` in training.
            mode: `loss`, `predict` or `tensor`.
        """
        if mode == "loss":
            return self._loss(inputs, data_samples)
        if mode == "predict":
            return self._predict(inputs, data_samples)
        return self._encode(inputs)[1]

    def masks(self, early: Tensor, embedding: Tensor, prompts: Prompts) -> Tensor:
        """`(N, 1, 4 T, 4 T)` logits for `N` images with one prompt of the same kind each."""
        sparse, dense = encode_prompts(self.prompt_encoder, prompts)
        return self.mask_decoder(early, embedding, encode_grid(self.prompt_encoder), sparse, dense)

    def _encode(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        wanted = sam_modules.first_global_state(self.image_encoder)
        (early,), embedding = sam_modules.encode(self.image_encoder, inputs, (wanted,))
        return early, embedding

    def _loss(self, inputs: Tensor, data_samples: Any) -> dict[str, Tensor]:
        labels = torch.stack([sample.gt_sem_seg.data for sample in data_samples])
        mask, void = (labels == 1).float(), (labels == VOID).float()
        # On the CPU, so that prompts and points do not depend on the device.
        rng = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
        early, embedding = self._encode(inputs)
        # A batch without any object has a loss too.
        total = 0 * self.mask_decoder.hf_token.weight.sum()
        count = 0
        for kind, rows in draw_kinds(mask, rng).items():
            prompts = make_prompts((kind,), mask[rows], 4 * self.geometry.tokens, rng)
            logits = self.masks(early[rows], embedding[rows], prompts)
            total = total + len(rows) * self._mask_loss(logits, mask[rows], void[rows], rng)
            count += len(rows)
        return {"loss_mask": total / max(count, 1)}

    def _mask_loss(self, logits: Tensor, mask: Tensor, void: Tensor, rng: torch.Generator) -> Tensor:
        """Cross-entropy and dice, one to one; void pixels count as background that is predicted well."""
        with full_precision(self):
            logits = logits.float()
            if self.points is None:
                size = mask.shape[-2:]
                logits = functional.interpolate(logits, size=size, mode="bilinear", align_corners=False)
                values, target, ignored = logits.flatten(1), mask.flatten(1), void.flatten(1)
            else:
                candidates = draw_candidates(len(logits), self.points, 3.0, 0.75, rng)
                nowhere = functional.adaptive_max_pool2d(void, logits.shape[-2:]) > 0
                places = uncertain_points(logits.masked_fill(nowhere, CERTAINLY_NOT), candidates)
                values, target, ignored = (sample_at(each, places) for each in (logits, mask, void))
            nothing = ignored > 0
            return segmentation_loss(
                values.masked_fill(nothing, CERTAINLY_NOT), target.masked_fill(nothing, 0)
            )

    def _predict(self, inputs: Tensor, data_samples: Any) -> Any:
        early, embedding = self._encode(inputs)
        for row, sample in enumerate(data_samples):
            height, width = sample.metainfo["ori_shape"]
            labels = torch.zeros((1, height, width), dtype=torch.uint8, device=inputs.device)
            box = sample.metainfo.get("prompt_box")
            if box is not None:
                prompts = Prompts(boxes=inputs.new_tensor([self._scaled(box, height, width)]))
                logits = self.masks(early[row : row + 1], embedding[row : row + 1], prompts)
                logits = functional.interpolate(
                    logits.float(), size=(height, width), mode="bilinear", align_corners=False
                )
                labels = (logits[0] > 0).to(torch.uint8)
            sample.set_data({"pred_sem_seg": PixelData(data=labels)})
        return data_samples

    def _scaled(self, box: Sequence[float], height: int, width: int) -> tuple[float, ...]:
        """A box with exclusive ends in an image, as the first and last pixels of the network's square."""
        side = self.geometry.image_size
        x0, y0, x1, y1 = box
        return x0 / width * side, y0 / height * side, x1 / width * side - 1, y1 / height * side - 1


def draw_kinds(mask: Tensor, rng: torch.Generator) -> dict[str, list[int]]:
    """Draws one kind of prompt for each image.

    Args:
        mask: `(B, 1, S, S)` of 0 and 1.
        rng: CPU generator.

    Returns:
        Rows by kind. Images without an object are in none; with fewer than ten pixels they get no points.
    """
    rows: dict[str, list[int]] = {"box": [], "points": [], "mask": []}
    for row, pixels in enumerate(mask.flatten(1).sum(1).tolist()):
        kinds = [kind for kind in rows if kind != "points" or pixels >= POINTS]
        kind = kinds[int(torch.randint(len(kinds), (), generator=rng))]
        if pixels:
            rows[kind].append(row)
    return {kind: members for kind, members in rows.items() if members}
