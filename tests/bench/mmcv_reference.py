"""The operators of `bench.mmcv_ext` written out as loops, for gradients by autograd."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def iou(first: list[float], second: list[float], offset: int = 0) -> float:
    width = max(0.0, min(first[2], second[2]) - max(first[0], second[0]) + offset)
    height = max(0.0, min(first[3], second[3]) - max(first[1], second[1]) + offset)
    areas = [(box[2] - box[0] + offset) * (box[3] - box[1] + offset) for box in (first, second)]
    return width * height / (sum(areas) - width * height)


def nms(boxes: Tensor, scores: Tensor, threshold: float, offset: int = 0) -> list[int]:
    order = sorted(range(len(boxes)), key=lambda i: -scores[i].item())
    kept: list[int] = []
    for i in order:
        if all(iou(boxes[i].tolist(), boxes[k].tolist(), offset) <= threshold for k in kept):
            kept.append(i)
    return kept


def soft_nms(
    boxes: Tensor, scores: Tensor, threshold: float, sigma: float, min_score: float, method: str, offset: int
) -> tuple[list[int], list[float]]:
    left = {i: score for i, score in enumerate(scores.tolist())}
    kept, final = [], []
    while left:
        best = max(left, key=lambda i: left[i])
        kept.append(best)
        final.append(left.pop(best))
        for i in list(left):
            overlap = iou(boxes[best].tolist(), boxes[i].tolist(), offset)
            if method == "gaussian":
                left[i] *= math.exp(-(overlap**2) / sigma)
            elif overlap >= threshold:
                left[i] *= 0.0 if method == "naive" else 1 - overlap
            if left[i] < min_score:
                del left[i]
    return kept, final


def nms_match(dets: Tensor, threshold: float) -> list[list[int]]:
    left = sorted(range(len(dets)), key=lambda i: -dets[i, 4].item())
    groups = []
    while left:
        best = left[0]
        group = [i for i in left if i == best or iou(dets[best].tolist(), dets[i].tolist()) >= threshold]
        groups.append(group)
        left = [i for i in left if i not in group]
    return groups


def sample(planes: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Bilinear value of `(C, H, W)` planes at a point; pixels outside count as zero."""
    height, width = planes.shape[1:]
    total = planes.new_zeros(len(planes))
    top, left = math.floor(float(y)), math.floor(float(x))
    for row in (top, top + 1):
        for column in (left, left + 1):
            if 0 <= row < height and 0 <= column < width:
                total = total + planes[:, row, column] * (1 - (y - row).abs()) * (1 - (x - column).abs())
    return total


def _clamped_sample(planes: Tensor, y: float, x: float) -> Tensor:
    """RoI align's rule: up to one pixel outside counts as the border, farther out as zero."""
    height, width = planes.shape[1:]
    if not (-1 <= y <= height and -1 <= x <= width):
        return planes.new_zeros(len(planes))
    clamp = planes.new_tensor([min(max(y, 0), height - 1), min(max(x, 0), width - 1)])
    return sample(planes, clamp[0], clamp[1])


def roi_align(
    features: Tensor, rois: Tensor, size: int, scale: float, sampling_ratio: int, aligned: bool
) -> Tensor:
    shift = 0.5 if aligned else 0.0
    pooled = []
    for image, *box in rois.tolist():
        x1, y1, x2, y2 = (value * scale - shift for value in box)
        width, height = x2 - x1, y2 - y1
        if not aligned:
            width, height = max(width, 1.0), max(height, 1.0)
        rows = sampling_ratio or math.ceil(height / size)
        columns = sampling_ratio or math.ceil(width / size)
        for i in range(size):
            for j in range(size):
                values = [
                    _clamped_sample(
                        features[int(image)],
                        y1 + (i + (a + 0.5) / rows) * height / size,
                        x1 + (j + (b + 0.5) / columns) * width / size,
                    )
                    for a in range(rows)
                    for b in range(columns)
                ]
                pooled.append(torch.stack(values).mean(0))
    return torch.stack(pooled).view(len(rois), size, size, -1).permute(0, 3, 1, 2)


def roi_pool(features: Tensor, rois: Tensor, size: int, scale: float) -> Tensor:
    limit_y, limit_x = features.shape[2:]
    pooled = []
    for image, *box in rois.tolist():
        x1, y1, x2, y2 = (math.floor(value * scale + 0.5) for value in box)
        width, height = max(x2 - x1 + 1, 1), max(y2 - y1 + 1, 1)
        for i in range(size):
            for j in range(size):
                top = min(max(y1 + math.floor(i * height / size), 0), limit_y)
                bottom = min(max(y1 + math.ceil((i + 1) * height / size), 0), limit_y)
                left = min(max(x1 + math.floor(j * width / size), 0), limit_x)
                right = min(max(x1 + math.ceil((j + 1) * width / size), 0), limit_x)
                bin_ = features[int(image), :, top:bottom, left:right].flatten(1)
                pooled.append(bin_.max(1).values if bin_.shape[1] else features.new_zeros(features.shape[1]))
    return torch.stack(pooled).view(len(rois), size, size, -1).permute(0, 3, 1, 2)


def deform_conv(
    features: Tensor,
    offset: Tensor,
    mask: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    stride: int,
    padding: int,
    dilation: int,
    groups: int,
    deform_groups: int,
) -> Tensor:
    batch, channels = features.shape[:2]
    out_channels, per_group, kernel, _ = weight.shape
    height, width = offset.shape[2:]
    share = channels // deform_groups
    result = []
    for n in range(batch):
        for i in range(height):
            for j in range(width):
                taps = []
                for k in range(kernel * kernel):
                    parts = []
                    for g in range(deform_groups):
                        at = g * kernel * kernel + k
                        y = i * stride - padding + k // kernel * dilation + offset[n, 2 * at, i, j]
                        x = j * stride - padding + k % kernel * dilation + offset[n, 2 * at + 1, i, j]
                        value = sample(features[n, g * share : (g + 1) * share], y, x)
                        parts.append(value if mask is None else value * mask[n, at, i, j])
                    taps.append(torch.cat(parts))
                column = torch.stack(taps, 1)
                for o in range(out_channels):
                    first = o // (out_channels // groups) * per_group
                    total = (weight[o].flatten(1) * column[first : first + per_group]).sum()
                    result.append(total if bias is None else total + bias[o])
    return torch.stack(result).view(batch, height, width, out_channels).permute(0, 3, 1, 2)


def focal_loss(logits: Tensor, target: Tensor, gamma: float, alpha: float, weight: Tensor | None) -> Tensor:
    rows = []
    for logit, label in zip(logits, target.tolist(), strict=True):
        for c, value in enumerate(logit):
            p = 1 / (1 + torch.exp(-value))
            if c == label:
                loss = -alpha * (1 - p) ** gamma * torch.log(p)
            else:
                loss = -(1 - alpha) * p**gamma * torch.log(1 - p)
            rows.append(loss * weight[label] if weight is not None and label < logits.shape[1] else loss)
    return torch.stack(rows).view_as(logits)


def deformable_attention(
    value: Tensor, shapes: list[tuple[int, int]], locations: Tensor, weights: Tensor
) -> Tensor:
    batch, _, heads, depth = value.shape
    queries, points = locations.shape[1], locations.shape[4]
    planes = [
        part.view(batch, h, w, heads, depth).permute(0, 3, 4, 1, 2)
        for part, (h, w) in zip(value.split([h * w for h, w in shapes], 1), shapes, strict=True)
    ]
    result = []
    for n in range(batch):
        for q in range(queries):
            for head in range(heads):
                total = value.new_zeros(depth)
                for level, (h, w) in enumerate(shapes):
                    for p in range(points):
                        x, y = locations[n, q, head, level, p]
                        seen = sample(planes[level][n, head], y * h - 0.5, x * w - 0.5)
                        total = total + weights[n, q, head, level, p] * seen
                result.append(total)
    return torch.stack(result).view(batch, queries, heads * depth)
