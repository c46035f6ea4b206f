"""`bench ls`, `bench status`, `bench doctor`: what there is, and how it stands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bench.cli.options import store_option
from bench.errors import SpecError


@click.command("ls")
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
        width = max((len(name) for name, _ in rows), default=0)
        for name, text in rows:
            click.echo(f"  {name:<{width}}  {text}")


@click.command()
@store_option
def status(store: Path) -> None:
    """Show what a store holds: finished, running and interrupted stages, and records."""
    from bench.status import status_lines

    for line in status_lines(store):
        click.echo(line)


@click.command()
@store_option
def doctor(store: Path) -> None:
    """Check the environment: packages, operators, CUDA, disk, plugins."""
    from bench.doctor import examine

    worst = 0
    for check in examine(store):
        click.echo(f"{check.state:<5} {check.name}: {check.text}")
        worst = max(worst, check.exit_code)
    raise SystemExit(worst)


def _describe(listing: Any) -> str:
    plugin = listing.plugin
    parts = [plugin.summary]
    if getattr(plugin, "paper", ""):
        parts.append(f"({plugin.paper})")
    if getattr(plugin, "tasks", None) and isinstance(plugin.tasks, tuple | frozenset):
        tasks = sorted(plugin.tasks) if isinstance(plugin.tasks, frozenset) else plugin.tasks
        parts.append(f"[{', '.join(tasks)}]")
    if getattr(plugin, "needs", None) and plugin.needs():
        parts.append(f"[needs {plugin.needs()}]")
    if getattr(plugin, "clean_drop", None):
        parts.append(f"[on clean shapes: up to {plugin.clean_drop:g} points less]")
    if listing.origin != "unseg-bench":
        parts.append(f"from {listing.origin}")
    return " ".join(part for part in parts if part)
