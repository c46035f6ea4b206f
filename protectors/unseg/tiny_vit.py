"""MobileSAM's image encoder (Zhang et al. 2023, arXiv 2306.14289): TinyViT-5M with SAM's neck.

TinyViT is timm's. MobileSAM's last stage keeps the resolution of the one before, so that the embedding has a
cell per 16 pixels as SAM's has; and it counts the layer between two stages to the earlier one, where timm counts
it to the later. Importing this module imports torch.
"""

from __future__ import annotations

import re

from segment_anything.modeling.common import LayerNorm2d
from timm.models.tiny_vit import TinyVit
from torch import Tensor, nn

from protectors.unseg.options import TINY_VIT_EARLY_DIM

EMBED_DIMS = (64, 128, TINY_VIT_EARLY_DIM, 320)
_RENAMED = (
    (re.compile(r"^patch_embed\.seq\.0\."), "trunk.patch_embed.conv1."),
    (re.compile(r"^patch_embed\.seq\.2\."), "trunk.patch_embed.conv2."),
    (re.compile(r"^layers\.(\d)\.downsample\."), lambda m: f"trunk.stages.{int(m[1]) + 1}.downsample."),
    (re.compile(r"^layers\."), "trunk.stages."),
    (re.compile(r"\.c\.weight$"), ".conv.weight"),
)
_LEFT_OUT = re.compile(r"^(norm_head|head)\.|\.attention_bias_idxs$")


class TinyImageEncoder(nn.Module):
    """`(B, 3, S, S)` to `(B, out_channels, S / 16, S / 16)`.

    Its batch normalisations always use the statistics that they were loaded with: the generator is trained on
    small batches, and a frozen encoder must not change at all.

    Args:
        out_channels: Channels of the embedding.
    """

    def __init__(self, out_channels: int) -> None:
        super().__init__()
        self.trunk = TinyVit(
            num_classes=0,
            embed_dims=EMBED_DIMS,
            depths=(2, 2, 6, 2),
            num_heads=(2, 4, 5, 10),
            window_sizes=(7, 7, 14, 7),
            drop_path_rate=0.0,
        )
        self.trunk.head = nn.Identity()
        self.trunk.stages[3].downsample.conv2.conv.stride = (1, 1)
        self.neck = nn.Sequential(
            nn.Conv2d(EMBED_DIMS[-1], out_channels, 1, bias=False),
            LayerNorm2d(out_channels),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            LayerNorm2d(out_channels),
        )
        self.train(self.training)

    def train(self, mode: bool = True) -> TinyImageEncoder:
        """As `nn.Module.train`, the batch normalisations excepted."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Early features and the embedding of `(B, 3, S, S)`, normalised.

        TinyViT has no global attention. The early features are those that HQ-SAM (arXiv 2306.01567) takes in its
        light version: the first at the resolution of the embedding, before the third stage.

        Returns:
            `(B, 160, S / 16, S / 16)` and `(B, out_channels, S / 16, S / 16)`.
        """
        stages = self.trunk.stages
        x = stages[1](stages[0](self.trunk.patch_embed(image)))
        early = stages[2].downsample(x)
        x = stages[2].blocks(early.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return early, self.neck(stages[3](x))

    def forward(self, image: Tensor) -> Tensor:
        """The embedding alone."""
        return self.encode(image)[1]


def from_mobile_sam(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of MobileSAM's image encoder under our names, without its classifier."""
    renamed = {}
    for name, value in state.items():
        if _LEFT_OUT.search(name):
            continue
        for pattern, replacement in _RENAMED:
            name = pattern.sub(replacement, name)
        renamed[name] = value
    return renamed
