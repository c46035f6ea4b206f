"""The command line. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

import bench
from bench.errors import EXIT_CELL_FAILED, EXIT_INTERRUPTED, BenchError, SpecError

EPILOG_RUN = """
\b
Examples:
  bench run --protector unseg --victim mask2former
  bench run --protector lsp --victim unetplusplus --defense jpeg --seeds 0,1,2
  bench run --protector unseg --victim unetplusplus --dataset image_mask \\
      --data-root Kvasir-SEG --image-size 96
"""


class _Group(click.Group):
    """Lists commands in the order of use, and answers an unknown one with the nearest."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(self.commands)

    def resolve_command(self, context: click.Context, args: list[str]) -> Any:
        name = args[0] if args else ""
        if name and not name.startswith("-") and name not in self.commands:
            import difflib

            near = difflib.get_close_matches(name, self.commands, n=3, cutoff=0.5)
            hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(self.commands)}"
            raise click.UsageError(f"unknown command {name!r}: {hint}")
        return super().resolve_command(context, args)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(bench.__version__, prog_name="bench")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """Benchmark unlearnable examples against image segmentation."""


_store_option = click.option(
    "--store",
    type=click.Path(path_type=Path),
    default=Path("results"),
    show_default=True,
    envvar="BENCH_STORE",
    help="Folder of stages and records.",
)


def _execution_options(command: Callable) -> Callable:
    options = [
        _store_option,
        click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N."),
        click.option("--jobs", type=int, default=0, help="Worker processes at a time; 0 chooses."),
        click.option("--threads", type=int, default=0, help="CPU threads of one worker; 0 shares the cores."),
        click.option("--loader-workers", type=int, default=0, help="Data loading processes of one training."),
        click.option("--force", is_flag=True, help="Do the cells' trainings and evaluations again."),
        click.option("--dry-run", is_flag=True, help="Print what would be done, and stop."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@cli.command(epilog=EPILOG_RUN)
@click.option("--protector", "protectors", multiple=True, required=True, help="Protector; may be repeated.")
@click.option("--victim", "victims", multiple=True, required=True, help="Victim; may be repeated.")
@click.option("--defense", "defenses", multiple=True, default=("none",), help="Defense; may be repeated.")
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
@click.option("--fit-image-size", type=int, help="Longest side of the images that the protector learns from.")
@click.option("--protector-option", multiple=True, metavar="KEY=VALUE", help="Option of the protectors.")
@click.option("--victim-option", multiple=True, metavar="KEY=VALUE", help="Option of the victims.")
@click.option("--defense-option", multiple=True, metavar="KEY=VALUE", help="Option of the defenses.")
@click.option("--dataset-option", multiple=True, metavar="KEY=VALUE", help="Option of the dataset.")
@click.option("--no-controls", is_flag=True, help="Leave the clean and random controls out.")
@_execution_options
def run(**flags: Any) -> None:
    """Train the clean control, the random controls and the protected cell, and print the table."""
    from bench.spec import Matrix, validated

    values = {
        "name": "run",
        "dataset": _drop_none(
            {
                "name": flags["dataset"],
                "root": flags["data_root"],
                "image_size": flags["image_size"],
                "options": _pairs(flags["dataset_option"], "--dataset-option"),
            }
        ),
        "protectors": [_protector_values(name, flags) for name in flags["protectors"]],
        "victims": [
            _drop_none(
                {
                    "name": name,
                    "task": flags["task"],
                    "init": flags["init"],
                    "options": _pairs(flags["victim_option"], "--victim-option"),
                }
            )
            for name in flags["victims"]
        ],
        "defenses": [
            {
                "name": name,
                "options": _pairs(flags["defense_option"], "--defense-option") if name != "none" else {},
            }
            for name in flags["defenses"]
        ],
        "seeds": _seeds(flags["seeds"]),
        "profile": flags["profile"],
        "codec": flags["codec"],
        "controls": not flags["no_controls"],
    }
    _execute(validated(Matrix, _drop_none(values), "bench run"), flags)


@cli.command()
@click.argument("file", type=click.Path(path_type=Path))
@_execution_options
def matrix(file: Path, **flags: Any) -> None:
    """Run every cell of a matrix from a TOML file; what is done already is not done again."""
    from bench.spec import read_matrix

    _execute(read_matrix(file), flags)


@cli.command()
@_store_option
@click.option(
    "--output", type=click.Path(path_type=Path), help="Folder of the tables; STORE/tables if left out."
)
def tables(store: Path, output: Path | None) -> None:
    """Regenerate all tables (Markdown, LaTeX, CSV) from the records of a store."""
    from bench.report.write import write_all_tables

    for path in write_all_tables(store, output or store / "tables"):
        click.echo(path)


@cli.command("ls")
@click.argument("kind", required=False, metavar="[protectors|victims|defenses|datasets|profiles]")
def list_plugins(kind: str | None) -> None:
    """List protectors, victims, defenses, datasets and profiles, broken ones with their reason."""
    from bench.profiles import PROFILES
    from bench.registry import KINDS, listings, unknown

    groups = [f"{k}s" for k in KINDS] + ["profiles"]
    if kind is not None and kind not in groups and f"{kind}s" not in groups:
        raise SpecError(unknown("kind", kind, groups))
    for group in groups:
        if kind not in (None, group, group[:-1]):
            continue
        click.echo(f"{group}:")
        if group == "profiles":
            rows = [(name, text) for name, text in PROFILES.items()]
        else:
            rows = [(r.name, r.problem or _describe(r)) for r in listings(group[:-1])]  # type: ignore[arg-type]
        for name, text in rows:
            click.echo(f"  {name:<14} {text}")


@cli.command()
@_store_option
def status(store: Path) -> None:
    """Show what a store holds: finished, running and interrupted stages, and records."""
    from bench.status import status_lines

    for line in status_lines(store):
        click.echo(line)


@cli.command()
@_store_option
def doctor(store: Path) -> None:
    """Check the environment: packages, operators, CUDA, disk, plugins."""
    from bench.doctor import examine

    worst = 0
    for check in examine(store):
        click.echo(f"{check.state:<5} {check.name}: {check.text}")
        worst = max(worst, check.exit_code)
    raise SystemExit(worst)


def main() -> None:
    """Entry point: errors become one line and an exit code."""
    sys.exit(_guarded(sys.argv[1:]))


def _guarded(arguments: list[str]) -> int:
    # --debug is the group's flag; it is accepted behind the command too, where people type it.
    debug = "--debug" in arguments
    arguments = [a for a in arguments if a != "--debug"]
    try:
        outcome = cli.main(args=arguments, prog_name="bench", standalone_mode=False)
        return outcome if isinstance(outcome, int) else 0
    except BenchError as error:
        if debug:
            raise
        click.echo(f"bench: {error}", err=True)
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("bench: interrupted", err=True)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        return 0
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    except Exception as error:
        if debug:
            raise
        click.echo(
            f"bench: internal error: {type(error).__name__}: {' '.join(str(error).split())} "
            "(run again with --debug for the traceback)",
            err=True,
        )
        return EXIT_CELL_FAILED


def _execute(matrix: Any, flags: dict[str, Any]) -> None:
    from bench.report.write import announce, write_run_tables
    from bench.run import discard_results, dry_run_lines, run_matrix
    from bench.spec import Execution, validated

    keys = ("store", "device", "jobs", "threads", "loader_workers")
    execution = validated(Execution, {k: flags[k] for k in keys}, "bench")
    if flags["dry_run"]:
        for line in dry_run_lines(matrix, execution):
            click.echo(line)
        return
    if flags["force"]:
        discard_results(matrix, execution)
    result = run_matrix(matrix, execution, on_record=announce)
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
        "options": _pairs(flags["protector_option"], "--protector-option") if name != "none" else {},
    }
    if flags["fit_on"] and name != "none":
        values["fit_on"] = [_fit_dataset(text, flags["fit_image_size"]) for text in flags["fit_on"]]
    return values


def _fit_dataset(text: str, image_size: int | None) -> dict[str, Any]:
    name, _, root = text.partition("=")
    if not root:
        return {"name": name}
    return _drop_none({"name": name, "root": root, "image_size": image_size})


def parse_epsilon(text: str, flag: str) -> float:
    """`8/255` or `0.0314` as levels.

    Raises:
        SpecError: It is no number, or outside [0, 1].
    """
    top, slash, bottom = text.partition("/")
    try:
        value = float(top) / float(bottom) if slash else float(top)
    except (ValueError, ZeroDivisionError) as error:
        raise SpecError(f"{flag} {text!r} is no number: write it like 8/255 or 0.0314") from error
    if not 0 <= value <= 1:
        raise SpecError(f"{flag} {text} is out of range: images lie in [0, 1], so write it like 8/255")
    return round(value * 255, 6)


def _pairs(items: tuple[str, ...], flag: str) -> dict[str, Any]:
    """KEY=VALUE pairs; values are JSON where they parse as JSON, else strings."""
    values: dict[str, Any] = {}
    for item in items:
        key, equals, text = item.partition("=")
        if not equals or not key:
            raise SpecError(f"{flag} {item!r}: write KEY=VALUE")
        try:
            values[key] = json.loads(text)
        except json.JSONDecodeError:
            values[key] = text
    return values


def _seeds(text: str) -> list[int]:
    try:
        seeds = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise SpecError(f"--seeds {text!r}: write whole numbers separated by commas, like 0,1,2") from error
    if min(seeds) < 0 or len(set(seeds)) != len(seeds):
        raise SpecError(f"--seeds {text}: seeds are not negative, and each is named once")
    return seeds


def _drop_none(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _describe(listing: Any) -> str:
    plugin = listing.plugin
    parts = [plugin.summary]
    if getattr(plugin, "paper", ""):
        parts.append(f"({plugin.paper})")
    if getattr(plugin, "tasks", None) and isinstance(plugin.tasks, tuple | frozenset):
        tasks = sorted(plugin.tasks) if isinstance(plugin.tasks, frozenset) else plugin.tasks
        parts.append(f"[{', '.join(tasks)}]")
    if listing.origin != "unseg-bench":
        parts.append(f"from {listing.origin}")
    return " ".join(part for part in parts if part)


if __name__ == "__main__":
    main()
