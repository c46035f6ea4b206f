"""`bench run`, `bench matrix`, `bench tables`: from a request to tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.cli.options import (
    drop_none,
    execution_options,
    fit_dataset,
    pairs,
    parse_epsilon,
    parse_ratios,
    parse_seeds,
    store_option,
)
from bench.errors import EXIT_CELL_FAILED, SpecError

if TYPE_CHECKING:
    from bench.spec import Matrix

EPILOG_RUN = """
\b
Examples:
  bench run --protector unseg --victim mask2former
  bench run --protector lsp --victim unetplusplus --defense jpeg --seeds 0,1,2
  bench run --protector unseg --victim unetplusplus --dataset image_mask \\
      --data-root Kvasir-SEG --image-size 96
"""


def _spec_files(required: bool) -> Any:
    return click.argument(
        "files", type=click.Path(path_type=Path), nargs=-1, required=required, metavar="FILE..."
    )


def _read_tables(files: Sequence[Path]) -> list[Matrix]:
    """The matrices of all files.

    Raises:
        SpecError: A file is wrong, or two tables have one name.
    """
    from bench.spec import read_matrices

    tables: dict[str, list[Matrix]] = {}
    for path in dict.fromkeys(files):
        matrices = list(read_matrices(path))
        if matrices[0].name in tables:
            raise SpecError(
                f"{path}: another file's table is called {matrices[0].name!r} too: give it another name"
            )
        tables[matrices[0].name] = matrices
    return [matrix for matrices in tables.values() for matrix in matrices]


@click.command(epilog=EPILOG_RUN)
@click.option("--protector", "protectors", multiple=True, required=True, help="Protector; may be repeated.")
@click.option(
    "--victim",
    "victims",
    multiple=True,
    required=True,
    help="Victim, or a config file of mmdet or mmseg, which is executed; may be repeated.",
)
@click.option(
    "--defense",
    "defenses",
    multiple=True,
    default=("none",),
    help="Defense, or a list of them: paper, best, all; may be repeated.",
)
@click.option("--task", help="Task of the victim; the first it shares with the dataset if left out.")
@click.option("--init", default="scratch", show_default=True, help="Starting weights of the victim.")
@click.option("--dataset", default="shapes", show_default=True, help="Dataset.")
@click.option(
    "--data-root", type=click.Path(path_type=Path), help="Folder of a dataset that is not generated."
)
@click.option("--image-size", type=int, help="Work on a copy with the longest side at most this many pixels.")
@click.option("--profile", help="ci, cpu, gpu or paper; gpu with CUDA and cpu without if left out.")
@click.option("--seeds", default="0", show_default=True, help="Seeds, separated by commas.")
@click.option(
    "--budget", default="mask", show_default=True, help="mask: epsilon on objects; uniform: everywhere."
)
@click.option("--epsilon", default="8/255", show_default=True, help="L-inf budget inside the mask.")
@click.option("--epsilon-background", default="2/255", show_default=True, help="L-inf budget outside.")
@click.option(
    "--codec", default="png", show_default=True, help="png, or jpeg95 for parity with the official code."
)
@click.option("--fit-on", multiple=True, metavar="NAME[=DIR]", help="Dataset that the protector learns from.")
@click.option(
    "--defense-fit-on", multiple=True, metavar="NAME[=DIR]", help="Dataset that the defense learns from."
)
@click.option("--fit-image-size", type=int, help="Longest side of the images that either learns from.")
@click.option("--protector-option", multiple=True, metavar="KEY=VALUE", help="Option of the protectors.")
@click.option("--victim-option", multiple=True, metavar="KEY=VALUE", help="Option of the victims.")
@click.option("--defense-option", multiple=True, metavar="KEY=VALUE", help="Option of the defenses.")
@click.option("--dataset-option", multiple=True, metavar="KEY=VALUE", help="Option of the dataset.")
@click.option("--curve", type=int, default=0, help="Score each victim this often during its training.")
@click.option(
    "--clean-ratios",
    default="0",
    show_default=True,
    help="Shares of the training images that the attacker has unprotected, separated by commas, like 0,0.2.",
)
@click.option("--no-controls", is_flag=True, help="Leave the clean and random controls out.")
@execution_options
def run(**flags: Any) -> None:
    """Train the clean control, the random controls and the protected cell, and print the table."""
    from bench.spec import Matrix, validated

    values = {
        "name": "run",
        "dataset": drop_none(
            {
                "name": flags["dataset"],
                "root": flags["data_root"],
                "image_size": flags["image_size"],
                "options": pairs(flags["dataset_option"], "--dataset-option"),
            }
        ),
        "protectors": [_protector_values(name, flags) for name in flags["protectors"]],
        "victims": [
            drop_none(
                {
                    "name": name,
                    "task": flags["task"],
                    "init": flags["init"],
                    "options": pairs(flags["victim_option"], "--victim-option"),
                }
            )
            for name in flags["victims"]
        ],
        "defenses": [_defense_values(name, flags) for name in flags["defenses"]],
        "seeds": parse_seeds(flags["seeds"]),
        "profile": flags["profile"],
        "codec": flags["codec"],
        "controls": not flags["no_controls"],
        "clean_ratios": parse_ratios(flags["clean_ratios"]),
        "curve": flags["curve"],
    }
    _execute([validated(Matrix, drop_none(values), "bench run")], flags)


@click.command()
@_spec_files(required=True)
@execution_options
def matrix(files: tuple[Path, ...], **flags: Any) -> None:
    """Run every cell of the tables that TOML files describe; what is done already is not done again.

    Cells and stages that several tables have in common are run once.
    """
    _execute(_read_tables(files), flags)


@click.command()
@_spec_files(required=False)
@store_option
@click.option(
    "--output", type=click.Path(path_type=Path), help="Folder of the tables; STORE/tables if left out."
)
def tables(files: tuple[Path, ...], store: Path, output: Path | None) -> None:
    """Regenerate the tables (Markdown, LaTeX, CSV) of all records of a store, or of the TOML files given."""
    from bench.plan import make_plan
    from bench.report.write import write_all_tables, write_planned_tables
    from bench.store import Store

    folder = output or store / "tables"
    if not files:
        for path in write_all_tables(store, folder):
            click.echo(path)
        return
    paths, missing = write_planned_tables(make_plan(_read_tables(files), Store(store)), store, folder)
    for path in paths:
        click.echo(path)
    for line in missing:
        click.echo(f"note: {line}", err=True)


@click.command()
@store_option
@click.option(
    "--output", type=click.Path(path_type=Path), help="Folder of the figures; STORE/curves if left out."
)
def curves(store: Path, output: Path | None) -> None:
    """Draw the scores over the trainings (PNG, PDF, CSV) from the records of runs with --curve."""
    from bench.report.curves import write_all_curves

    for path in write_all_curves(store, output or store / "curves"):
        click.echo(path)


def _execute(matrices: Sequence[Matrix], flags: dict[str, Any]) -> None:
    from bench.report.write import announce, write_run_tables
    from bench.run import discard_results, dry_run_lines, run_matrix
    from bench.spec import Execution, validated

    keys = ("store", "device", "jobs", "threads", "loader_workers", "fit_processes")
    execution = validated(Execution, {k: flags[k] for k in keys}, "bench")
    if flags["dry_run"]:
        for line in dry_run_lines(matrices, execution):
            click.echo(line)
        return
    if flags["force"]:
        discard_results(matrices, execution)
    result = run_matrix(matrices, execution, on_record=announce)
    text, paths = write_run_tables(result, execution.store)
    click.echo(text)
    click.echo("")
    click.echo(f"records: {execution.store / 'records'}   tables: {', '.join(str(p) for p in paths)}")
    if result.failed:
        for record in result.failed:
            cell = record["cell"]
            click.echo(
                f"bench: {cell['victim']['name']} on {record['label']} (seed {cell['seed']}) "
                f"{record['status']}: {record['reason']}",
                err=True,
            )
        raise SystemExit(EXIT_CELL_FAILED)


def _protector_values(name: str, flags: dict[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {
        "name": name,
        "budget": {
            "kind": flags["budget"],
            "epsilon": parse_epsilon(flags["epsilon"], "--epsilon"),
            "epsilon_background": parse_epsilon(flags["epsilon_background"], "--epsilon-background"),
        },
        "options": pairs(flags["protector_option"], "--protector-option") if name != "none" else {},
    }
    if flags["fit_on"] and name != "none":
        values["fit_on"] = [fit_dataset(text, flags["fit_image_size"]) for text in flags["fit_on"]]
    return values


def _defense_values(name: str, flags: dict[str, Any]) -> dict[str, Any]:
    if name == "none":
        return {"name": name}
    values: dict[str, Any] = {"name": name, "options": pairs(flags["defense_option"], "--defense-option")}
    if flags["defense_fit_on"]:
        size = flags["fit_image_size"]
        values["fit_on"] = [fit_dataset(text, size) for text in flags["defense_fit_on"]]
    return values
