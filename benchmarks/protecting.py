"""Images per second of `bench protect`, beside a plain loop of the shape of UnSeg's own scripts.

    python benchmarks/protecting.py [--geometry compact|vit_b] [--generator FOLDER] [--images DIR --masks DIR]

Both protect the same files with the same generator in the same process, in turn, and write the same codec. The
plain loop does one image at a time, in float32: read, pad, network, enlarge, add, copy to the host, `cv2.imwrite`.
`bench protect` also decodes every file that it wrote, checks its budget, measures PSNR and SSIM, hashes it and keeps
the manifest. Loading the generator is not timed. With --official-attention the plain loop is run once more with
segment-anything's own attention, which UnSeg's scripts have, in place of `protectors.unseg.attention`. CPU time is
printed beside wall time: on a shared machine it is the one to compare.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is loaded; as bench protect does, for both

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from segment_anything.modeling.image_encoder import Attention

from bench.datasets.shapes.scenes import SceneOptions, draw_scene
from bench.machine import usable_cores
from bench.protect.prompts import ObjectPrompt
from bench.protect.request import Request
from bench.protect.run import protect
from bench.training.checkpoint import save_weights
from protectors.unseg import UnSeg
from protectors.unseg.deploy import load_generator, prompted_noise
from protectors.unseg.generator import NoiseSam
from protectors.unseg.options import UnSegOptions
from protectors.unseg.prompts import MASK_ON, Prompts
from protectors.unseg.weights import OPTIONS, WEIGHTS

EPSILON, EPSILON_BACKGROUND = 8 / 255, 2 / 255
Pairs = list[tuple[Path, Path]]


@dataclass
class Timing:
    """Seconds of one pass over the files: wall, CPU, and wall within the image encoder; and its passes."""

    wall: float
    cpu: float
    encoder: float
    passes: int


class EncoderClock:
    """Times the image encoder, between its first and its last layer."""

    def __init__(self) -> None:
        self.seconds, self.passes, self._started = 0.0, 0, 0.0

    @contextmanager
    def watching(self, generator: NoiseSam) -> Iterator[None]:
        first = generator.image_encoder.patch_embed.register_forward_pre_hook(self._start)
        last = generator.image_encoder.neck.register_forward_hook(self._stop)
        try:
            yield
        finally:
            first.remove()
            last.remove()

    def _start(self, *arguments: object) -> None:
        self._synchronise()
        self._started = time.perf_counter()

    def _stop(self, *arguments: object) -> None:
        self._synchronise()
        self.seconds += time.perf_counter() - self._started
        self.passes += 1

    @staticmethod
    def _synchronise() -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()


@torch.no_grad()
def plain_loop(generator: NoiseSam, pairs: Pairs, folder: Path, codec: str) -> None:
    """One image at a time; the mask is prompt and budget map at the size of the generator's output."""
    device = next(generator.parameters()).device
    size, cells = generator.geometry.image_size, generator.geometry.output_size
    folder.mkdir(parents=True, exist_ok=True)
    for image_path, mask_path in pairs:
        image = cv2.cvtColor(cv2.imread(str(image_path)), cv2.COLOR_BGR2RGB)
        foreground = cv2.imread(str(mask_path), cv2.IMREAD_GRAYSCALE) > 127
        height, width = foreground.shape
        side = max(height, width)
        padding = ((0, side - height), (0, side - width))
        square = np.pad(image, (*padding, (0, 0))).astype(np.float32) / 255
        square = torch.from_numpy(square).permute(2, 0, 1)[None].to(device)
        mask = torch.from_numpy(np.pad(foreground, padding).astype(np.float32))[None, None].to(device)
        small = F.interpolate(F.interpolate(mask, (size, size)), (cells, cells), mode="bilinear").round()
        scaled = F.interpolate(square, (size, size), mode="bilinear", align_corners=False)
        noise = generator(scaled, Prompts(masks=MASK_ON * small))
        noise = F.interpolate(noise, (side, side), mode="bilinear", align_corners=False)
        inside = F.interpolate(small, (side, side), mode="bilinear", align_corners=False).round()
        noise = noise * (inside * EPSILON + (1 - inside) * EPSILON_BACKGROUND)
        protected = ((square + noise).clamp(0, 1) * 255)[0, :, :height, :width]
        pixels = protected.permute(1, 2, 0).cpu().numpy().round().astype(np.uint8)
        target = folder / (image_path.stem + (".png" if codec == "png" else ".jpg"))
        cv2.imwrite(str(target), pixels[..., ::-1])


def time_plain_loop(generator: NoiseSam, pairs: Pairs, folder: Path, codec: str) -> Timing:
    clock = EncoderClock()
    wall, cpu = time.perf_counter(), time.process_time()
    with clock.watching(generator):
        plain_loop(generator, pairs, folder, codec)
    return Timing(time.perf_counter() - wall, time.process_time() - cpu, clock.seconds, clock.passes)


@contextmanager
def official_attention(generator: NoiseSam) -> Iterator[None]:
    """Gives the encoder segment-anything's own attention for a while."""
    layers = [block.attn for block in generator.image_encoder.blocks]
    classes = [type(layer) for layer in layers]
    try:
        for layer in layers:
            layer.__class__ = Attention
        yield
    finally:
        for layer, its_class in zip(layers, classes, strict=True):
            layer.__class__ = its_class


def time_command(request: Request, generator: NoiseSam) -> Timing:
    """The command's own work, from its first image to its last, on a generator that is loaded already."""

    clock, plain_load = EncoderClock(), UnSeg.load
    UnSeg.load = lambda self, state_dir, device: generator
    try:
        with clock.watching(generator):
            cpu = time.process_time()
            summary = protect(request)
            cpu = time.process_time() - cpu
    finally:
        UnSeg.load = plain_load
    assert not summary.failed, summary.failed
    return Timing(summary.seconds, cpu, clock.seconds, clock.passes)


def passes_by_prompts(generator: NoiseSam) -> list[int]:
    """Encoder passes for one image with 1 to 5 boxes."""
    image = draw_scene(0, 0, SceneOptions(size=256)).image
    counts = []
    for count in range(1, 6):
        clock = EncoderClock()
        boxes = [ObjectPrompt(box=(10 * k, 5, 10 * k + 60, 90)) for k in range(count)]
        with clock.watching(generator):
            prompted_noise(generator, image, boxes, "box")
        counts.append(clock.passes)
    return counts


def random_generator(folder: Path, geometry: str) -> Path:
    """A generator with random weights: what it costs does not depend on them."""
    options = UnSegOptions() if geometry == "vit_b" else UnSeg.resolve_options("cpu", {})
    torch.manual_seed(0)
    save_weights(folder / WEIGHTS, NoiseSam(options.generator, options.token_readout))
    stated = options.model_dump(
        mode="json", include={"generator", "token_readout", "trainable", "generator_init"}
    )
    (folder / OPTIONS).write_text(json.dumps(stated))
    return folder


def drawn_photos(folder: Path, count: int, width: int, height: int) -> tuple[Path, Path]:
    """Drawn scenes with a camera's grain as JPEG, and the masks of their objects."""
    images, masks = folder / "images", folder / "masks"
    images.mkdir()
    masks.mkdir()
    for index in range(count):
        scene = draw_scene(0, index, SceneOptions(size=max(width, height), pixel_noise=0.01))
        Image.fromarray(scene.image[:height, :width]).save(images / f"{index:04}.jpg", quality=92)
        mask = (scene.instances[:height, :width] > 0).astype(np.uint8) * 255
        Image.fromarray(mask).save(masks / f"{index:04}.png")
    return images, masks


def spread(values: list[float]) -> str:
    """Median, least and greatest."""
    return f"{statistics.median(values):.3g} [{min(values):.3g}, {max(values):.3g}]"


def measure(arguments: argparse.Namespace, folder: Path) -> None:
    if arguments.generator is None:
        (folder / "generator").mkdir()
        arguments.generator = random_generator(folder / "generator", arguments.geometry)
    generator = load_generator(arguments.generator, arguments.device)
    if arguments.images is None:
        arguments.images, arguments.masks = drawn_photos(folder, arguments.count, *arguments.size)
    images = sorted(arguments.images.iterdir())[: arguments.count]
    pairs = [(path, (arguments.masks / path.name).with_suffix(".png")) for path in images]
    chosen = folder / "chosen"
    chosen.mkdir()
    for path in images:
        os.symlink(path.absolute(), chosen / path.name)

    def request(number: int) -> Request:
        return Request(
            output=folder / f"protected{number}",
            images=chosen,
            masks=arguments.masks,
            generator=str(arguments.generator),
            codec=arguments.codec,
            device=arguments.device,
            precision=arguments.precision,
            batch_size=arguments.batch_size,
            workers=arguments.workers,
        )

    kinds: dict[str, Callable[[int], Timing]] = {
        "plain loop": lambda number: time_plain_loop(
            generator, pairs, folder / f"plain{number}", arguments.codec
        ),
        "bench protect": lambda number: time_command(request(number), generator),
    }
    if arguments.official_attention:

        def official(number: int) -> Timing:
            with official_attention(generator):
                return time_plain_loop(generator, pairs, folder / f"official{number}", arguments.codec)

        kinds["plain loop, official attention"] = official
    timings: dict[str, list[Timing]] = {kind: [] for kind in kinds}
    for number in range(arguments.rounds + 1):
        for kind, run in kinds.items():
            timing = run(number)
            if number:  # the first round warms caches and allocators up
                timings[kind].append(timing)
    for kind, taken in timings.items():
        print(
            f"{kind}: {spread([len(pairs) / t.wall for t in taken])} images/s, "
            f"CPU {spread([t.cpu / len(pairs) * 1000 for t in taken])} ms per image, "
            f"encoder {statistics.median(t.encoder / t.wall for t in taken):.0%} of the time, "
            f"{taken[0].passes / len(pairs):g} passes per image"
        )
    ours = timings.pop("bench protect")
    for kind, taken in timings.items():
        wall = [theirs.wall / own.wall for theirs, own in zip(taken, ours, strict=True)]
        print(f"bench protect to {kind}, images/s: {spread(wall)} over {arguments.rounds} rounds")
    print(f"encoder passes for 1 to 5 prompts: {passes_by_prompts(generator)}")


def main() -> None:
    """Prints both speeds, their ratio round by round, and what the encoder takes of the time."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--geometry", choices=["compact", "vit_b"], default="compact")
    parser.add_argument("--generator", type=Path, help="a trained one, instead of random weights")
    parser.add_argument("--images", type=Path, help="photographs, instead of drawn scenes")
    parser.add_argument("--masks", type=Path)
    parser.add_argument("--count", type=int, default=48)
    parser.add_argument("--size", type=int, nargs=2, default=(481, 321), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--codec", choices=["png", "jpeg95"], default="png")
    parser.add_argument("--official-attention", action="store_true")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--batch-size", type=int, default=0)
    parser.add_argument("--workers", type=int, default=usable_cores())
    parser.add_argument("--threads", type=int, default=usable_cores(), help="torch's threads, for both")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.set_flush_denormal(True)
    with tempfile.TemporaryDirectory() as folder:
        measure(arguments, Path(folder))


if __name__ == "__main__":
    main()
