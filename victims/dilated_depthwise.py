"""The dilated depthwise convolution, which CPUs have no fast kernel for, as one that is not dilated."""

from __future__ import annotations

from torch import Tensor, nn


class DilatedDepthwise(nn.Conv2d):
    """A depthwise convolution of dilation d, on the CPU as one without on each of the d x d interleaved images.

    A pixel's result depends on pixels alone that are multiples of d away from it. Taken apart by the remainder of their
    position, an image is d x d smaller ones, in which they are neighbours. The result is the same; in channels-last
    order it takes 40 to 60 % of the time (8x8 maps, 3x3 and 5x5, forward and backward).
    """

    def forward(self, inputs: Tensor) -> Tensor:
        """As `nn.Conv2d`."""
        if inputs.is_cuda:
            return super().forward(inputs)
        step = self.dilation[0]
        count, channels, height, width = inputs.shape
        below, right = -height % step, -width % step
        padded = nn.functional.pad(inputs, (0, right, 0, below)) if below or right else inputs
        rows, columns = padded.shape[2] // step, padded.shape[3] // step
        # (N, H, W, C), which channels-last order is in memory: rows and columns are split without a copy.
        pixels = padded.permute(0, 2, 3, 1).reshape(count, rows, step, columns, step, channels)
        apart = pixels.permute(2, 4, 0, 1, 3, 5).reshape(step * step * count, rows, columns, channels)
        padding = (self.padding[0] // step, self.padding[1] // step)
        done = nn.functional.conv2d(
            apart.permute(0, 3, 1, 2), self.weight, self.bias, padding=padding, groups=self.groups
        )
        split = done.permute(0, 2, 3, 1).reshape(step, step, count, rows, columns, channels)
        together = split.permute(2, 3, 0, 4, 1, 5).reshape(count, rows * step, columns * step, channels)
        return together.permute(0, 3, 1, 2)[:, :, :height, :width]


def replace_dilated_depthwise(module: nn.Module) -> None:
    """Makes the dilated depthwise convolutions in `module` `DilatedDepthwise`; weights and names stay.

    Those are meant that keep the size of their input, of stride 1 and an odd kernel.
    """
    for child in module.modules():
        if type(child) is nn.Conv2d and _fits(child):
            child.__class__ = DilatedDepthwise


def _fits(layer: nn.Conv2d) -> bool:
    step = layer.dilation[0]
    same_size = tuple(step * (side - 1) // 2 for side in layer.kernel_size)
    return (
        layer.groups == layer.in_channels == layer.out_channels
        and layer.stride == (1, 1)
        and layer.dilation == (step, step)
        and step > 1
        and all(side % 2 for side in layer.kernel_size)
        and layer.padding == same_size
        and layer.padding_mode == "zeros"
    )
