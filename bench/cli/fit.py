"""`bench fit`: trains a protector outside a matrix, or converts what its authors released."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.cli.options import fit_dataset, fit_processes_option, pairs, store_option
from bench.errors import EXIT_CELL_FAILED, SpecError, UsageError

if TYPE_CHECKING:
    from bench.plan import Plan
    from bench.protector import ImportedState
    from bench.store import Store

EPILOG_FIT = """
\b
Examples:
  bench fit --fit-on image_mask=DUTS --fit-image-size 96
  bench fit --profile paper --fit-on image_mask=HQSeg-44K --output generator
  bench fit --from Generator_final.pth
"""


@click.command(epilog=EPILOG_FIT)
@click.option("--protector", default="unseg", show_default=True, help="A protector that learns.")
@click.option("--protector-option", multiple=True, metavar="KEY=VALUE", help="Option of the protector.")
@click.option("--fit-on", multiple=True, metavar="NAME[=DIR]", help="Dataset that it learns from.")
@click.option("--fit-image-size", type=int, help="Longest side of the images that it learns from.")
@click.option("--profile", help="ci, cpu, gpu or paper; gpu with CUDA and cpu without if left out.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed.")
@click.option(
    "--from",
    "source",
    type=click.Path(path_type=Path),
    help="Train nothing: convert this file, which the protector's authors released.",
)
@click.option("--output", type=click.Path(path_type=Path), help="Folder to which the state is copied.")
@store_option
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--threads", type=int, default=0, help="CPU threads; 0 takes what a worker of a run would.")
@click.option("--loader-workers", type=int, default=0, help="Data loading processes of one training.")
@fit_processes_option
@click.option("--dry-run", is_flag=True, help="Print what would be done, and stop.")
def fit(**flags: Any) -> None:
    """Train a protector that learns; a later run with the same options finds it in the store."""
    output: Path | None = flags["output"]
    if output is not None and output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UsageError(f"--output {output} is there and not empty: name a new folder")
    if flags["source"] is not None:
        _convert(flags)
    else:
        _train(flags)


def _convert(flags: dict[str, Any]) -> None:
    from bench import registry

    for name in ("fit_on", "fit_image_size", "profile", "dry_run"):
        if flags[name]:
            raise SpecError(
                f"--from converts a file and trains nothing: leave --{name.replace('_', '-')} out"
            )
    source: Path = flags["source"].expanduser()
    if not source.is_file():
        raise UsageError(f"--from {source}: no such file")
    plugin = registry.load("protector", flags["protector"])
    imported: ImportedState = plugin.import_state(
        source, pairs(flags["protector_option"], "--protector-option")
    )
    for line in imported.notes:
        click.echo(line)
    click.echo(f"state: {_copied(imported.state_dir, flags['output'])}")
    options = " ".join(f"--protector-option {key}={value}" for key, value in imported.options.items())
    click.echo("use it:")
    click.echo(f"  bench run --protector {plugin.name} {options} --victim mask2former")
    click.echo(
        f"  bench protect --protector {plugin.name} --generator {imported.reference} --images DIR --masks DIR "
        "--output DIR"
    )


def _train(flags: dict[str, Any]) -> None:
    from bench.plan import make_fit_plan
    from bench.profiles import PROFILES, default_profile
    from bench.registry import unknown
    from bench.spec import DatasetSpec, Execution, ProtectorSpec, validated
    from bench.store import Store

    profile = flags["profile"] or default_profile()
    if profile not in PROFILES:
        raise SpecError(unknown("profile", profile, list(PROFILES)))
    values = {
        "name": flags["protector"],
        "options": pairs(flags["protector_option"], "--protector-option"),
        "fit_on": [fit_dataset(text, flags["fit_image_size"]) for text in flags["fit_on"]],
    }
    spec = validated(ProtectorSpec, values, "bench fit")
    keys = ("store", "device", "threads", "loader_workers", "fit_processes")
    execution = validated(Execution, {k: flags[k] for k in keys}, "bench fit")
    store = Store(execution.store)
    store.prepare()
    plan = make_fit_plan(spec, DatasetSpec(), profile, flags["seed"], store)
    if flags["dry_run"]:
        for stage in plan.stages:
            state = "done" if store.is_done(stage.kind, stage.key) else "to do"
            click.echo(f"  {stage.kind:<8} {stage.key}  {state:<5}  {stage.label}")
        return
    _work_off(plan, store, execution)
    finished = store.stage_folder("fit", next(s.key for s in plan.stages if s.kind == "fit")) / "state"
    click.echo(f"state: {_copied(finished, flags['output'])}")
    click.echo(f"bench run --protector {spec.name} with the same options, profile and seed uses it")


def _work_off(plan: Plan, store: Store, execution: Any) -> None:
    """Runs the stages that are not done; a failure ends the command with its reason."""
    from bench.executor import Executor
    from bench.progress import make_progress
    from bench.run import prepare_fits

    with make_progress(len(plan.stages)) as progress:
        progress.skip(sum(store.is_done(stage.kind, stage.key) for stage in plan.stages))
        prepare_fits(plan, store, progress)
        outcome = Executor(plan, store, execution, progress).run(lambda stage: None)
    for message in dict.fromkeys(failure.message for failure in outcome.failed.values()):
        click.echo(f"bench: {message}", err=True)
    if outcome.failed:
        raise SystemExit(EXIT_CELL_FAILED)


def _copied(state: Path, output: Path | None) -> Path:
    """Copies a state to the folder that the user named, whole or not at all; returns where it lies for him."""
    from bench.files import explained

    if output is None:
        return state
    with explained(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{output.name[:40]}.", suffix=".tmp", dir=output.parent))
        try:
            copy = temporary / "state"
            shutil.copytree(state, copy)
            os.replace(copy, output)  # an empty folder may be in its place
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return output
