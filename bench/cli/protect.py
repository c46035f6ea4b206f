"""`bench protect`: protects photographs, a dataset or one image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.cli.options import drop_none, pairs, parse_epsilon
from bench.errors import EXIT_CELL_FAILED, Interrupted, SpecError

if TYPE_CHECKING:
    from bench.budget import Budget
    from bench.protect.prompts import ObjectPrompt
    from bench.protect.run import Request, Summary

PRESETS = {"natural": (8.0, 2.0), "medical": (4.0, 1.0), "official-default": (16.0, 4.0)}
"""The paper's pairs of levels inside and outside the mask."""
FAILURES_SHOWN = 20

EPILOG_PROTECT = """
\b
Examples:
  bench protect --images photos --masks masks --output protected --generator generator
  bench protect --images photos --prompts boxes.json --output protected --generator generator
  bench protect --image cat.jpg --box 40,30,310,280 --output protected --generator generator
  bench protect --dataset voc --data-root VOCdevkit/VOC2012 --output voc-protected --generator generator
  bench protect --images photos --masks masks --output noisy --protector random --protector-option grid=64
"""

_path = click.Path(path_type=Path)


@click.command(epilog=EPILOG_PROTECT)
@click.option("--images", type=_path, help="Folder of photographs, searched with its sub-folders.")
@click.option("--masks", type=_path, help="Folder of masks: same sub-folders, same names, any suffix.")
@click.option("--prompts", type=_path, help="JSON file of boxes and points by name; goes before masks.")
@click.option("--image", type=_path, help="One photograph.")
@click.option("--mask", type=_path, help="Its mask.")
@click.option("--box", "boxes", multiple=True, metavar="X0,Y0,X1,Y1", help="A box in it; may be repeated.")
@click.option(
    "--point", "points", multiple=True, metavar="X,Y", help="A point on its object; may be repeated."
)
@click.option("--dataset", help="Dataset, whose training images are protected.")
@click.option("--data-root", type=_path, help="Folder of the dataset.")
@click.option("--dataset-option", multiple=True, metavar="KEY=VALUE", help="Option of the dataset.")
@click.option("--output", type=_path, required=True, help="Folder for everything that is written.")
@click.option("--protector", default="unseg", show_default=True, help="Protector.")
@click.option(
    "--protector-option", multiple=True, metavar="KEY=VALUE", help="Option of one that does not learn."
)
@click.option("--generator", metavar="PATH|sha256:HEX", help="What a protector that learns has learned.")
@click.option(
    "--preset",
    type=click.Choice(list(PRESETS)),
    help="Budget inside and outside the mask: natural 8/255 and 2/255 (default), medical 4/255 and 1/255, "
    "official-default 16/255 and 4/255.",
)
@click.option(
    "--budget",
    type=click.Choice(["mask", "uniform"]),
    default="mask",
    show_default=True,
    help="mask: epsilon on objects; uniform: everywhere.",
)
@click.option("--epsilon", help="L-inf budget inside the mask, like 8/255.")
@click.option("--epsilon-background", help="L-inf budget outside.")
@click.option(
    "--region",
    type=click.Choice(["box", "predicted", "image"]),
    help="Where epsilon applies for boxes and points: the boxes, what the generator's own SAM segments, or the "
    "whole image. Default: box for boxes, predicted for points.",
)
@click.option(
    "--codec",
    type=click.Choice(["png", "jpeg95"]),
    default="png",
    show_default=True,
    help="jpeg95, for parity with the official code, cannot keep the budget.",
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of random noise."
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "bf16"]),
    default="fp32",
    show_default=True,
    help="bf16 computes the network in bfloat16.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option(
    "--batch-size",
    type=click.IntRange(0, 1024),
    default=0,
    help="Images that the network sees at once; 0: 1 on a CPU, 8 on a GPU.",
)
@click.option(
    "--workers",
    type=click.IntRange(-1, 256),
    default=-1,
    help="Threads for reading and writing files; -1: one per core, at most 8.",
)
@click.option(
    "--threads", type=click.IntRange(0, 256), default=0, help="torch's CPU threads; 0 leaves it the choice."
)
@click.option("--force", is_flag=True, help="Do everything again, whatever is in the output folder.")
@click.option("--strict", is_flag=True, help="Stop at the first image that fails.")
def protect(**flags: Any) -> None:
    """Protect photographs, the training images of a dataset, or one image.

    An interrupted run goes on where it was: the same command skips what is done.
    """
    from bench.plan import Stage
    from bench.progress import make_progress
    from bench.protect.run import protect as run

    request = _request(flags)
    stage = Stage("protect", "", {}, label=f"protect with {request.protector}")
    try:
        with make_progress(1) as progress:
            progress.start(stage)
            summary = run(request, lambda done, total, note: progress.update(stage, done, total, note))
            progress.finish(stage, "done")
    except KeyboardInterrupt:
        raise Interrupted("interrupted: the same command goes on from here") from None
    _print(request, summary)
    if summary.failed:
        raise SystemExit(EXIT_CELL_FAILED)


def _request(flags: dict[str, Any]) -> Request:
    from bench.executor import resolve_device
    from bench.machine import usable_cores
    from bench.protect.run import Request
    from bench.spec import Execution, validated

    device = resolve_device(validated(Execution, {"device": flags["device"]}, "bench protect"))
    plain = (
        "output images masks prompts image mask dataset data_root protector generator codec region seed precision "
        "batch_size threads force strict"
    )
    return Request(
        **{name: flags[name] for name in plain.split()},
        objects=_objects(flags["boxes"], flags["points"]),
        dataset_options=pairs(flags["dataset_option"], "--dataset-option"),
        protector_options=pairs(flags["protector_option"], "--protector-option"),
        budget=_budget(flags),
        device=device,
        workers=min(8, usable_cores()) if flags["workers"] < 0 else flags["workers"],
    )


def _budget(flags: dict[str, Any]) -> Budget:
    from bench.budget import Budget

    inside, outside = PRESETS[flags["preset"] or "natural"]
    given = drop_none({name: flags[name] for name in ("epsilon", "epsilon_background")})
    if given and flags["preset"]:
        raise SpecError(
            "--preset names both epsilons: leave it out, or leave --epsilon and --epsilon-background out"
        )
    if "epsilon" in given:
        inside = parse_epsilon(given["epsilon"], "--epsilon")
    if "epsilon_background" in given:
        outside = parse_epsilon(given["epsilon_background"], "--epsilon-background")
    if flags["budget"] == "uniform":
        outside = inside
    return Budget(kind=flags["budget"], epsilon=inside, epsilon_background=outside)


def _objects(boxes: tuple[str, ...], points: tuple[str, ...]) -> tuple[ObjectPrompt, ...]:
    from bench.protect.prompts import make_objects

    return make_objects(
        [_numbers(text, "--box") for text in boxes],
        [_numbers(text, "--point") for text in points],
        "bench protect",
    )


def _numbers(text: str, flag: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise SpecError(f"{flag} {text!r}: write numbers separated by commas") from None


def _print(request: Request, summary: Summary) -> None:
    from bench.progress import duration
    from bench.protect.manifest import MANIFEST
    from bench.protect.sources import CONTACT_SHEET

    pace = (
        f" in {duration(summary.seconds)} ({summary.done / summary.seconds:.2f} images/s)"
        if summary.done
        else ""
    )
    click.echo(
        f"{summary.done} of {summary.images} images protected{pace}, {summary.skipped} done before, "
        f"{len(summary.failed)} failed"
    )
    quality = summary.quality
    if quality["ssim"] is not None:
        psnr = "--" if quality["psnr"] is None else f"{quality['psnr']:.2f} dB"
        click.echo(
            f"L-inf inside/outside {quality['linf_foreground']}/{quality['linf_background']} of 255, "
            f"mean PSNR {psnr}, mean SSIM {quality['ssim']:.4f}, {quality['identical']} left as they are"
        )
        click.echo(f"manifest: {request.output / MANIFEST}   contact sheet: {request.output / CONTACT_SHEET}")
    if summary.dataset is not None:
        click.echo(f"dataset: {summary.dataset}")
    click.echo(f"peak memory: {summary.peak_memory_gib:.2f} GiB")
    if summary.nameless:
        click.echo(
            f"bench: prompts for images that are not there: {', '.join(summary.nameless[:5])}", err=True
        )
    for name, reason in summary.failed[:FAILURES_SHOWN]:
        click.echo(f"bench: {name}: {reason}", err=True)
    if len(summary.failed) > FAILURES_SHOWN:
        more = len(summary.failed) - FAILURES_SHOWN
        click.echo(f"bench: and {more} more, each with its reason in {request.output / MANIFEST}", err=True)
    if summary.stopped:
        click.echo("bench: stopped at the first failure (--strict)", err=True)
    elif summary.failed and request.dataset is not None:
        click.echo("bench: no dataset was written; mend these and run the same again", err=True)
