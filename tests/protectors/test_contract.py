"""Every registered protector keeps the contract."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bench import registry
from bench.testing import check_protector

VARIANTS: dict[str, list[dict[str, Any]]] = {
    "random": [
        {"distribution": "uniform"},
        {"grid": 9},
        {"grid": 16, "interpolation": "bilinear"},
        {"grid": 10_000},
    ],
    "lsp": [{"anchor": "image"}, {"patch": 3, "cells": 2}, {"strength": 1.0}],
}
"""Options to check beside the defaults."""


PROTECTORS = {
    listing.name: registry.load("protector", listing.name) for listing in registry.listings("protector")
}


@pytest.mark.parametrize("name", sorted(name for name, plugin in PROTECTORS.items() if not plugin.learns))
def test_a_protector_that_needs_no_training_keeps_the_contract(name: str) -> None:
    assert PROTECTORS[name].name == name
    check_protector(PROTECTORS[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(name for name, plugin in PROTECTORS.items() if plugin.learns))
def test_a_protector_that_learns_keeps_the_contract_once_it_has(name: str, fit_on_shapes: Callable) -> None:
    plugin = PROTECTORS[name]
    protector = plugin(plugin.resolve_options("ci", {}))
    check_protector(protector, fit_on_shapes(protector))


@pytest.mark.parametrize(
    ("name", "options"), [(name, options) for name, cases in VARIANTS.items() for options in cases]
)
def test_it_keeps_the_contract_with_other_options(name: str, options: dict[str, Any]) -> None:
    plugin = PROTECTORS[name]
    check_protector(plugin(plugin.Options(**options)))


def test_the_controls_are_registered() -> None:
    assert {"none", "random", "lsp"} <= set(PROTECTORS)
