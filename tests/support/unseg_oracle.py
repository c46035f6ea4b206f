"""UnSeg written a second time, from the description of the method, with nothing but torch's arithmetic.

Nothing here imports the project or segment_anything. A network is a state dict `w` with the names of SAM's
and the authors' checkpoints; its shape is read off the tensors where it can be, and it computes in their
precision. Everything is as plain and as slow as it may be: windows one by one, attention with the full matrix
of scores and positions, resizing by matrices of weights.

Sources: SAM (arXiv 2304.02643, appendix A), ViTDet's windowed attention and MViTv2's decomposed relative
positions (arXiv 2112.01526, equation 3), PointRend (arXiv 1912.08193), Mask Transfiner (arXiv 2111.13673),
UnSeg (arXiv 2410.09909, section 3).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

Weights = dict[str, Tensor]
MEAN = torch.tensor([0.485, 0.456, 0.406])
STD = torch.tensor([0.229, 0.224, 0.225])


@dataclass(frozen=True)
class Shape:
    """What the tensors do not tell."""

    image_size: int
    encoder_heads: int
    window: int
    global_blocks: tuple[int, ...]
    decoder_heads: int


def sub(w: Weights, name: str) -> Weights:
    """The part of a state dict below `name`."""
    return {key[len(name) + 1 :]: value for key, value in w.items() if key.startswith(name + ".")}


def count(w: Weights, name: str) -> int:
    """How many numbered parts there are below `name`."""
    return len({key[len(name) + 1 :].split(".")[0] for key in w if key.startswith(name + ".")})


# ---- layers ------------------------------------------------------------------------------------


def linear(w: Weights, x: Tensor) -> Tensor:
    return x @ w["weight"].T + w["bias"]


def norm(w: Weights, x: Tensor, eps: float) -> Tensor:
    """Layer normalisation over the last axis."""
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt() * w["weight"] + w["bias"]


def map_norm(w: Weights, x: Tensor) -> Tensor:
    """Layer normalisation over the channels of `(B, C, H, W)`."""
    return norm(w, x.movedim(1, -1), 1e-6).movedim(-1, 1)


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def patches(w: Weights, x: Tensor) -> Tensor:
    """A convolution whose stride is its kernel: one product per patch. `(B, C, H, W)`."""
    kernel = w["weight"]
    side = kernel.shape[-1]
    batch, channels, height, width = x.shape
    cut = x.reshape(batch, channels, height // side, side, width // side, side)
    return torch.einsum("bchiwj,dcij->bdhw", cut, kernel) + w["bias"][:, None, None]


def same_convolution(w: Weights, x: Tensor) -> Tensor:
    """A 1x1 or 3x3 convolution that keeps the size: a sum over the shifts of a zero-padded map."""
    kernel = w["weight"]
    side = kernel.shape[-1]
    batch, channels, height, width = x.shape
    margin = side // 2
    padded = x.new_zeros(batch, channels, height + 2 * margin, width + 2 * margin)
    padded[:, :, margin : margin + height, margin : margin + width] = x
    out = 0
    for i in range(side):
        for j in range(side):
            shifted = padded[:, :, i : i + height, j : j + width]
            out = out + torch.einsum("bchw,dc->bdhw", shifted, kernel[:, :, i, j])
    return out + w["bias"][:, None, None] if "bias" in w else out


def doubling(w: Weights, x: Tensor) -> Tensor:
    """A transposed 2x2 convolution of stride 2: every cell becomes four."""
    cells = torch.einsum("bchw,cdij->bdhiwj", x, w["weight"])
    batch, channels, height, _, width, _ = cells.shape
    return cells.reshape(batch, channels, 2 * height, 2 * width) + w["bias"][:, None, None]


def mlp(w: Weights, x: Tensor) -> Tensor:
    """Layers with ReLU between them."""
    layers = count(w, "layers")
    for i in range(layers):
        x = linear(sub(w, f"layers.{i}"), x)
        if i < layers - 1:
            x = x.clamp(min=0)
    return x


# ---- image encoder -----------------------------------------------------------------------------


def grid_attention(w: Weights, x: Tensor, heads: int) -> Tensor:
    """Attention over one `(H, W, C)` grid of tokens."""
    height, width, channels = x.shape
    size = channels // heads
    tokens = height * width
    q, k, v = linear(sub(w, "qkv"), x).reshape(tokens, 3, heads, size).permute(1, 2, 0, 3)
    out = []
    for head in range(heads):
        scores = q[head] @ k[head].T / math.sqrt(size)
        if "rel_pos_h" in w:
            scores = scores + position_bias(q[head], w["rel_pos_h"], w["rel_pos_w"], height, width)
        out.append(scores.softmax(-1) @ v[head])
    return linear(sub(w, "proj"), torch.cat(out, -1)).reshape(height, width, channels)


def position_bias(q: Tensor, rows: Tensor, columns: Tensor, height: int, width: int) -> Tensor:
    """The full `(HW, HW)` matrix q_i . R^h_(row i - row j) + q_i . R^w_(column i - column j)."""
    by_row = q @ rows.T  # (HW, 2 H - 1): the query with every row distance
    by_column = q @ columns.T
    index = torch.arange(height * width)
    row, column = index // width, index % width
    row_distance = row[:, None] - row[None, :] + height - 1
    column_distance = column[:, None] - column[None, :] + width - 1
    return by_row.gather(1, row_distance) + by_column.gather(1, column_distance)


def block(w: Weights, x: Tensor, heads: int, window: int) -> Tensor:
    """A transformer block on `(B, H, W, C)`; window 0 attends over the whole grid."""
    attention, normed = sub(w, "attn"), norm(sub(w, "norm1"), x, 1e-6)
    attended = torch.zeros_like(x)
    height, width = x.shape[1:3]
    side = window or max(height, width)
    for image in range(len(x)):
        for top in range(0, height, side):
            for left in range(0, width, side):
                seen = normed[image, top : top + side, left : left + side]
                if window:
                    # A window that sticks out is filled up with zeros, which are attended to as well.
                    full = x.new_zeros(window, window, x.shape[-1])
                    full[: seen.shape[0], : seen.shape[1]] = seen
                else:
                    full = seen
                out = grid_attention(attention, full, heads)[: seen.shape[0], : seen.shape[1]]
                attended[image, top : top + side, left : left + side] = out
    x = x + attended
    hidden = gelu(linear(sub(w, "mlp.lin1"), norm(sub(w, "norm2"), x, 1e-6)))
    return x + linear(sub(w, "mlp.lin2"), hidden)


def encode_image(w: Weights, image: Tensor, shape: Shape) -> tuple[Tensor, Tensor]:
    """First global feature and final embedding of `(B, 3, S, S)` images in [0, 1]."""
    image = (image - MEAN[:, None, None]) / STD[:, None, None]
    x = patches(sub(w, "patch_embed.proj"), image).permute(0, 2, 3, 1) + w["pos_embed"]
    early = None
    for i in range(count(w, "blocks")):
        x = block(
            sub(w, f"blocks.{i}"), x, shape.encoder_heads, 0 if i in shape.global_blocks else shape.window
        )
        if i == min(shape.global_blocks):
            early = x.permute(0, 3, 1, 2)
    x = map_norm(sub(w, "neck.1"), same_convolution(sub(w, "neck.0"), x.permute(0, 3, 1, 2)))
    return early, map_norm(sub(w, "neck.3"), same_convolution(sub(w, "neck.2"), x))


# ---- prompts -----------------------------------------------------------------------------------


def fourier(w: Weights, xy: Tensor) -> Tensor:
    """Random Fourier features of `(..., 2)` positions in [0, 1]."""
    angle = 2 * math.pi * ((2 * xy - 1) @ w["pe_layer.positional_encoding_gaussian_matrix"])
    return torch.cat([angle.sin(), angle.cos()], -1)


def grid_positions(w: Weights, tokens: int) -> Tensor:
    """`(C, T, T)` encodings of the centres of the embedding's cells."""
    centres = (torch.arange(tokens).to(w["pe_layer.positional_encoding_gaussian_matrix"]) + 0.5) / tokens
    xy = torch.stack([centres.expand(tokens, -1), centres[:, None].expand(-1, tokens)], -1)
    return fourier(w, xy).permute(2, 0, 1)


def encode_prompts(
    w: Weights,
    shape: Shape,
    batch: int,
    tokens: int,
    boxes: Tensor | None,
    points: Tensor | None,
    masks: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Sparse `(B, N, C)` and dense `(B, C, T, T)` embeddings; a pixel's position is that of its centre."""
    channels = w["no_mask_embed.weight"].shape[1]
    sparse = [torch.zeros(batch, 0, channels)]
    if points is not None:
        sparse.append(fourier(w, (points + 0.5) / shape.image_size) + w["point_embeddings.1.weight"])
        if boxes is None:  # SAM then adds a point that is none
            sparse.append(w["not_a_point_embed.weight"].expand(batch, 1, -1))
    if boxes is not None:
        corners = fourier(w, (boxes.reshape(batch, 2, 2) + 0.5) / shape.image_size)
        ends = torch.cat([w["point_embeddings.2.weight"], w["point_embeddings.3.weight"]])
        sparse.append(corners + ends)
    if masks is None:
        dense = w["no_mask_embed.weight"][0][:, None, None].expand(batch, -1, tokens, tokens)
    else:
        layers = sub(w, "mask_downscaling")
        x = gelu(map_norm(sub(layers, "1"), patches(sub(layers, "0"), masks)))
        x = gelu(map_norm(sub(layers, "4"), patches(sub(layers, "3"), x)))
        dense = same_convolution(sub(layers, "6"), x)
    return torch.cat(sparse, 1), dense


# ---- two-way transformer -----------------------------------------------------------------------


def cross_attention(w: Weights, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Attention of `(B, N, C)` to `(B, M, C)`."""
    q, k, v = linear(sub(w, "q_proj"), q), linear(sub(w, "k_proj"), k), linear(sub(w, "v_proj"), v)
    size = q.shape[-1] // heads
    out = []
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        scores = q[..., part] @ k[..., part].transpose(1, 2) / math.sqrt(size)
        out.append(scores.softmax(-1) @ v[..., part])
    return linear(sub(w, "out_proj"), torch.cat(out, -1))


def two_way(w: Weights, image: Tensor, position: Tensor, tokens: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    """Tokens and image attend to one another; returns `(B, N, C)` tokens and `(B, C, T, T)` image."""
    batch, channels, height, width = image.shape
    keys = image.reshape(batch, channels, -1).transpose(1, 2)
    where = position.reshape(channels, -1).T
    queries = tokens
    for i in range(count(w, "layers")):
        layer = sub(w, f"layers.{i}")
        if i == 0:
            queries = cross_attention(sub(layer, "self_attn"), queries, queries, queries, heads)
        else:
            asked = queries + tokens
            queries = queries + cross_attention(sub(layer, "self_attn"), asked, asked, queries, heads)
        queries = norm(sub(layer, "norm1"), queries, 1e-5)
        attention = sub(layer, "cross_attn_token_to_image")
        queries = queries + cross_attention(attention, queries + tokens, keys + where, keys, heads)
        queries = norm(sub(layer, "norm2"), queries, 1e-5)
        hidden = linear(sub(layer, "mlp.lin1"), queries).clamp(min=0)
        queries = norm(sub(layer, "norm3"), queries + linear(sub(layer, "mlp.lin2"), hidden), 1e-5)
        attention = sub(layer, "cross_attn_image_to_token")
        keys = keys + cross_attention(attention, keys + where, queries + tokens, queries, heads)
        keys = norm(sub(layer, "norm4"), keys, 1e-5)
    final = sub(w, "final_attn_token_to_image")
    queries = queries + cross_attention(final, queries + tokens, keys + where, keys, heads)
    queries = norm(sub(w, "norm_final_attn"), queries, 1e-5)
    return queries, keys.transpose(1, 2).reshape(batch, channels, height, width)


def upscale(w: Weights, x: Tensor) -> Tensor:
    """SAM's upscaling of the decoded embedding by four."""
    x = gelu(map_norm(sub(w, "1"), doubling(sub(w, "0"), x)))
    return gelu(doubling(sub(w, "3"), x))


# ---- the two networks --------------------------------------------------------------------------


def decode(
    w: Weights,
    shape: Shape,
    embedding: Tensor,
    own: Tensor,
    boxes: Tensor | None,
    points: Tensor | None,
    masks: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Tokens after the transformer, and SAM's upscaled embedding."""
    batch, tokens = len(embedding), embedding.shape[-1]
    prompts = sub(w, "prompt_encoder")
    sparse, dense = encode_prompts(prompts, shape, batch, tokens, boxes, points, masks)
    asked = torch.cat([own.expand(batch, -1, -1), sparse], 1)
    position = grid_positions(prompts, tokens)
    transformer = sub(w, "mask_decoder.transformer")
    out, source = two_way(transformer, embedding + dense, position, asked, shape.decoder_heads)
    return out, upscale(sub(w, "mask_decoder.output_upscaling"), source)


def noise(
    w: Weights,
    shape: Shape,
    image: Tensor,
    first_token: int,
    boxes: Tensor | None = None,
    points: Tensor | None = None,
    masks: Tensor | None = None,
) -> Tensor:
    """The generator.

    Args:
        w: Its state dict.
        shape: What that does not tell.
        image: `(B, 3, S, S)` in [0, 1].
        first_token: Output of the transformer that becomes red: 4 in the authors' code, 5 as they describe.
        boxes: `(B, 4)`.
        points: `(B, P, 2)`.
        masks: `(B, 1, 4 T, 4 T)` of 0 and 255.

    Returns:
        `(B, 3, 4 T, 4 T)` in (-1, 1).
    """
    early, embedding = encode_image(sub(w, "image_encoder"), image, shape)
    decoder = sub(w, "mask_decoder")
    own = torch.cat([decoder[f"{name}.weight"] for name in ("iou_token", "mask_tokens", "noise_token")])
    out, upscaled = decode(w, shape, embedding, own, boxes, points, masks)
    refine = sub(decoder, "noise_embedding_maskfeature")
    feature = gelu(map_norm(sub(refine, "1"), same_convolution(sub(refine, "0"), upscaled)))
    feature = same_convolution(sub(refine, "3"), feature)
    feature = feature + fusion(sub(decoder, "noise_embedding_encoder"), embedding)
    feature = feature + fusion(sub(decoder, "noise_compress_vit_feat"), early)
    channels = []
    for i in range(3):
        weights = mlp(sub(decoder, f"noise_mlp.{i}"), out[:, first_token + i])
        channels.append((weights[:, :, None, None] * feature).sum(1))
    return torch.tanh(torch.stack(channels, 1))


def fusion(w: Weights, x: Tensor) -> Tensor:
    """3x3 convolution and two doublings, normalised and activated between them."""
    x = gelu(map_norm(sub(w, "1"), same_convolution(sub(w, "0"), x)))
    x = gelu(map_norm(sub(w, "4"), doubling(sub(w, "3"), x)))
    return doubling(sub(w, "6"), x)


def logits(
    w: Weights,
    shape: Shape,
    image: Tensor,
    boxes: Tensor | None = None,
    points: Tensor | None = None,
    masks: Tensor | None = None,
) -> Tensor:
    """The surrogate: `(B, 1, 4 T, 4 T)`. Three mask tokens, the first of which is read; arguments as above."""
    _, embedding = encode_image(sub(w, "image_encoder"), image, shape)
    decoder = sub(w, "mask_decoder")
    out, upscaled = decode(w, shape, embedding, decoder["mask_tokens.weight"], boxes, points, masks)
    weights = mlp(sub(decoder, "output_hypernetworks_mlps.0"), out[:, 0])
    return (weights[:, :, None, None] * upscaled).sum(1, keepdim=True)


# ---- noise on images, prompts from masks -------------------------------------------------------


def resize_matrix(source: int, target: int) -> Tensor:
    """`(target, source)` weights of bilinear resizing, pixel centres aligned."""
    matrix = torch.zeros(target, source)
    for i in range(target):
        at = max((i + 0.5) * source / target - 0.5, 0.0)
        low = min(int(at), source - 1)
        high = min(low + 1, source - 1)
        matrix[i, low] += 1 - (at - low)
        matrix[i, high] += at - low
    return matrix


def resize(x: Tensor, side: int) -> Tensor:
    """`(..., H, W)` to a square, bilinearly."""
    return resize_matrix(x.shape[-2], side).to(x) @ x @ resize_matrix(x.shape[-1], side).to(x).T


def noised(image: Tensor, noise: Tensor, mask: Tensor, epsilon: float, epsilon_background: float) -> Tensor:
    """Image of side S plus noise of any side; budgets in levels of 255."""
    budget = torch.where(mask > 0.5, epsilon / 255, epsilon_background / 255)
    return (image + resize(noise, image.shape[-1]) * budget).clamp(0, 1)


def surrogate_mask(mask: Tensor, side: int) -> Tensor:
    """The mask at the surrogate's size."""
    return resize(mask, side).round()


def box(mask: Tensor) -> list[int]:
    """First and last column and row of an `(H, W)` mask: x0, y0, x1, y1."""
    ys, xs = [], []
    for y, line in enumerate(mask.tolist()):
        for x, value in enumerate(line):
            if value > 0.5:
                xs.append(x)
                ys.append(y)
    return [min(xs), min(ys), max(xs), max(ys)]


def noisy_mask(mask: Tensor, side: int, gaussian: Tensor) -> Tensor:
    """The mask prompt: noise where going down and up by eight changes the mask; values 0 and 255."""
    small = resize(mask, side)
    differs = (resize(resize(small, side // 8), side) - small).abs() >= 0.01
    return 255.0 * ((small + gaussian * differs) > 0.5)


# ---- losses ------------------------------------------------------------------------------------


def sample(grid: Tensor, x: float, y: float) -> Tensor:
    """Bilinear sample of an `(H, W)` map at (x, y) in [0, 1]; beyond it there are zeros."""
    height, width = grid.shape
    column, row = x * width - 0.5, y * height - 0.5
    left, top = math.floor(column), math.floor(row)
    value = grid.new_zeros(())
    for i, j in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
        if 0 <= i < height and 0 <= j < width:
            value = value + grid[i, j] * (1 - abs(row - i)) * (1 - abs(column - j))
    return value


def mask_loss(logits: Tensor, target: Tensor) -> Tensor:
    """BCE plus dice of one mask at `(P,)` points."""
    p = 1 / (1 + torch.exp(-logits))
    entropy = -(target * p.log() + (1 - target) * (1 - p).log())
    dice = 1 - (2 * (p * target).sum() + 1) / (p.sum() + target.sum() + 1)
    return entropy.mean() + dice


def point_loss(logits: Tensor, target: Tensor, offered: Tensor, uniform: Tensor, certain: int) -> Tensor:
    """Mean over masks of the loss at the `certain` least certain points of `offered`, and at `uniform`."""
    losses = []
    for plane, truth, points, more in zip(logits[:, 0], target[:, 0], offered, uniform, strict=True):
        values = [sample(plane, x, y) for x, y in points.tolist()]
        order = sorted(range(len(values)), key=lambda i: abs(values[i].item()))
        chosen = [points[i].tolist() for i in order[:certain]] + more.tolist()
        at = torch.stack([sample(plane, x, y) for x, y in chosen])
        true = torch.stack([sample(truth, x, y) for x, y in chosen])
        losses.append(mask_loss(at, true))
    return torch.stack(losses).mean()


def dense_loss(logits: Tensor, target: Tensor) -> Tensor:
    """The same loss on every pixel of the target."""
    logits = resize(logits, target.shape[-1])
    pairs = zip(logits.flatten(1), target.flatten(1), strict=True)
    return torch.stack([mask_loss(*pair) for pair in pairs]).mean()
