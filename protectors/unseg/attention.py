"""SAM's attention with decomposed relative positions, without the matrix of their sums.

segment-anything adds rel_h[q, row of k] + rel_w[q, column of k] to the scores of every query q and key k. At
1024 pixels that is a 4096 x 4096 matrix for each of 12 heads, built, added, normalised and copied in a block of
global attention. The forms here hold the same parameters and compute the same function. Importing this module
imports torch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from segment_anything.modeling.image_encoder import Attention, ImageEncoderViT, get_rel_pos
from torch import Tensor

QUERY_ROWS = 512
"""Queries at a time in `banded`: the scores of a band stay in a core's cache."""
BANDED_TOKENS = 1024
"""From this many tokens on `banded` is the faster form on a CPU."""


class RelativeAttention(Attention):
    """segment-anything's `Attention` with another `forward`."""

    def forward(self, x: Tensor) -> Tensor:
        """Attends over all tokens.

        Args:
            x: `(B, H, W, C)`.

        Returns:
            `(B, H, W, C)`.
        """
        batch, height, width, _ = x.shape
        tokens = height * width
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.flatten(1, 2).unbind(0)
        if not self.use_rel_pos:
            out = F.scaled_dot_product_attention(query[None], key[None], value[None], scale=self.scale)[0]
        else:
            rows, columns = self._relative_terms(query, height, width)
            banded_here = not (torch.is_grad_enabled() or x.is_cuda) and tokens >= BANDED_TOKENS
            attend = banded if banded_here else appended
            out = attend(query, key, value, rows, columns, self.scale)
        out = out.view(batch, self.num_heads, tokens, -1).transpose(1, 2)
        return self.proj(out.reshape(batch, height, width, -1))

    def _relative_terms(self, query: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        """What each query adds to the scores of a row and of a column of keys: `(B, N, H)`, `(B, N, W)`."""
        grid = query.view(-1, height, width, query.shape[-1])
        rows = torch.einsum("bhwc,hkc->bhwk", grid, get_rel_pos(height, height, self.rel_pos_h))
        columns = torch.einsum("bhwc,wkc->bhwk", grid, get_rel_pos(width, width, self.rel_pos_w))
        return rows.flatten(1, 2), columns.flatten(1, 2)


def appended(
    query: Tensor, key: Tensor, value: Tensor, rows: Tensor, columns: Tensor, scale: float
) -> Tensor:
    """One fused attention over longer vectors: (s q, rel_h, rel_w) . (k, e_row, e_column).

    The unit vectors pick the relative terms of the key's row and column, so the dot product is the score.

    Args:
        query: `(B, N, C)`, heads folded into the batch.
        key: `(B, N, C)`.
        value: `(B, N, C)`.
        rows: `(B, N, H)` terms of the rows of keys, N = H W.
        columns: `(B, N, W)` terms of their columns.
        scale: Factor on the dot products of queries and keys.

    Returns:
        `(B, N, C)`.
    """
    height, width = rows.shape[-1], columns.shape[-1]
    unit_rows = torch.eye(height, dtype=key.dtype, device=key.device).repeat_interleave(width, 0)
    unit_columns = torch.eye(width, dtype=key.dtype, device=key.device).repeat(height, 1)
    units = torch.cat([unit_rows, unit_columns], dim=-1).expand(len(key), -1, -1)
    query = torch.cat([query * scale, rows, columns], dim=-1)
    key = torch.cat([key, units], dim=-1)
    # The fused kernels want vectors of one length; the padding of the values is cut off again.
    padded = F.pad(value, (0, height + width))
    out = F.scaled_dot_product_attention(query[None], key[None], padded[None], scale=1.0)[0]
    return out[..., : value.shape[-1]]


def banded(query: Tensor, key: Tensor, value: Tensor, rows: Tensor, columns: Tensor, scale: float) -> Tensor:
    """The scores of a band of queries at a time, written over the sums of their relative terms.

    Without gradients, on a CPU. Arguments and result as for `appended`.
    """
    count, tokens, _ = query.shape
    out = torch.empty_like(query)
    query = query * scale
    for head in range(count):
        transposed = key[head].t().contiguous()
        for start in range(0, tokens, QUERY_ROWS):
            band = slice(start, start + QUERY_ROWS)
            scores = rows[head, band, :, None] + columns[head, band, None, :]
            scores = scores.flatten(1).addmm_(query[head, band], transposed)
            torch.mm(scores.softmax(-1), value[head], out=out[head, band])
    return out


def use_fast_attention(encoder: ImageEncoderViT) -> None:
    """Gives every block of an encoder the forms of this module; its parameters stay where they are."""
    for block in encoder.blocks:
        block.attn.__class__ = RelativeAttention
