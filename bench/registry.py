"""Finds protectors, victims, defenses and datasets through entry points, and loads only the one asked for."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

from bench.errors import PluginUnavailable, UnknownName

Kind = Literal["protector", "victim", "defense", "dataset"]
KINDS: tuple[Kind, ...] = ("protector", "victim", "defense", "dataset")

OPEN: dict[Kind, str] = {"victim": "config_file"}
"""Plugins that are asked about names which nobody registered: config files are victims by their own names."""


@dataclass(frozen=True)
class Listing:
    """One registered name.

    Attributes:
        name: What the user types.
        origin: Distribution that declares it.
        target: The `module:attribute` behind it.
        plugin: The class, or None if it does not import.
        problem: Why it does not import; empty when it does.
    """

    name: str
    origin: str
    target: str
    plugin: Any
    problem: str


def load(kind: Kind, name: str) -> Any:
    """The plugin class registered under `name`.

    Raises:
        UnknownName: Nobody registered it; the message holds the nearest names.
        PluginUnavailable: It is registered and its module does not import.
    """
    found = _entry_points(kind).get(name)
    if found is None:
        raise UnknownName(unknown(kind, name, list(_entry_points(kind))))
    return _import(kind, found)


def resolve(kind: Kind, name: str) -> tuple[Any, dict[str, Any]]:
    """The plugin class behind a name, and the options that the name itself stands for.

    Registered names stand for no options; others are what the plugin in `OPEN` makes of them.

    Raises:
        UnknownName: The name means nothing; the message holds the nearest that do.
        PluginUnavailable: The plugin does not import.
        BenchError: What the plugin in `OPEN` finds wrong with it.
    """
    known = _entry_points(kind)
    if name in known or OPEN.get(kind) not in known:
        return load(kind, name), {}
    plugin = load(kind, OPEN[kind])
    options = plugin.options_of(name)
    if options is None:
        raise UnknownName(unknown(kind, name, [*known, *plugin.alike(name)]))
    return plugin, options


def names(kind: Kind) -> tuple[str, ...]:
    """All registered names of a kind, sorted. Imports nothing."""
    return tuple(sorted(_entry_points(kind)))


def listings(kind: Kind) -> list[Listing]:
    """Every registered plugin of a kind, broken ones with their reason."""
    rows = []
    for name in names(kind):
        point = _entry_points(kind)[name]
        origin = point.dist.name if point.dist else "unknown"
        try:
            rows.append(Listing(name, origin, point.value, _import(kind, point), ""))
        except PluginUnavailable as error:
            rows.append(Listing(name, origin, point.value, None, str(error)))
    return rows


def unknown(what: str, name: str, known: list[str]) -> str:
    """One line that names the nearest of `known`, or all of them if none is near."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if near:
        return f"unknown {what} {name!r}: did you mean {' or '.join(near)}?"
    return f"unknown {what} {name!r}: there are {', '.join(sorted(known)) or 'none'}"


@cache
def _entry_points(kind: Kind) -> dict[str, EntryPoint]:
    group = f"bench.{kind}s"
    return {point.name: point for point in entry_points(group=group)}


def _import(kind: Kind, point: EntryPoint) -> Any:
    try:
        plugin = point.load()
    except Exception as error:  # whatever a third party's module raises, the others must go on
        raise PluginUnavailable(
            f"{kind} {point.name!r} ({point.value}) does not import: {type(error).__name__}: {error}"
        ) from error
    if getattr(plugin, "name", None) != point.name:
        raise PluginUnavailable(
            f"{kind} {point.name!r} ({point.value}) calls itself {getattr(plugin, 'name', None)!r}: "
            "the entry point and the class attribute `name` must agree"
        )
    return plugin
