"""What DeepLabV3's EfficientNet-Lite0 costs on the CPU, with and without the replaced dilated convolutions.

    python benchmarks/dilated_depthwise.py [--image-size 64] [--batch-size 8] [--rounds 7]

Forward and backward of the backbone, by turns in one process, one thread, CPU time.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import nn

from bench.training.environment import prepare


def milliseconds(network: nn.Module, images: torch.Tensor) -> float:
    start = time.process_time()
    network(images)[-1].mean().backward()
    return 1000 * (time.process_time() - start)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    prepare("mmseg")
    from victims.deeplab import LITE0_DEPTH, LITE0_STRIDE
    from victims.dilated_depthwise import DilatedDepthwise
    from victims.lite0_backbone import Lite0Backbone

    ours, plain = (Lite0Backbone(LITE0_DEPTH, LITE0_STRIDE, pretrained=False) for _ in range(2))
    for layer in plain.modules():
        if type(layer) is DilatedDepthwise:
            layer.__class__ = nn.Conv2d
    images = torch.randn(arguments.batch_size, 3, arguments.image_size, arguments.image_size)
    milliseconds(ours, images), milliseconds(plain, images)
    pairs = [(milliseconds(ours, images), milliseconds(plain, images)) for _ in range(arguments.rounds)]
    ratios = [one / other for one, other in pairs]
    print(f"plain {statistics.median(other for _, other in pairs):.0f} ms, ", end="")
    print(f"ours {statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}] of it")


if __name__ == "__main__":
    main()
