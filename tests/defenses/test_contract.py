"""Every registered defense keeps the contract."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bench import registry
from bench.countermeasures import LISTS, listed
from bench.testing import check_defense

VARIANTS: dict[str, list[dict[str, Any]]] = {
    "gaussian": [{"kernel_size": 3, "sigma": 0.5}, {"kernel_size": 21, "sigma": 4.0}],
    "jpeg": [{"quality": 95, "subsampling": "4:4:4"}, {"quality": 50, "subsampling": "4:2:2"}],
    "bit_depth": [{"bits": 1}, {"bits": 7}],
    "median": [{"size": 5}, {"size": 21}],
    "total_variation": [{"weight": 0.005}, {"weight": 1.0, "iterations": 5}],
    "resize": [{"factor": 0.01}, {"factor": 0.99, "interpolation": "lanczos"}],
    "noise": [{"sigma": 0.5}, {"distribution": "uniform", "sigma": 100.0}],
    "color_jitter": [
        {"brightness": 0.02, "contrast": 0, "saturation": 0, "hue": 0},
        {"brightness": 1, "contrast": 1, "saturation": 1, "hue": 0.5},
    ],
    "rand_augment": [{"operations": 1, "magnitude": 1}, {"operations": 4, "magnitude": 30}],
    "coin": [{"alpha": 0.1}, {"alpha": 40.0}],
    "sharpen_frequency": [{"spread": 0.0, "kept": 1.0}, {"centre": 1.0, "spread": 0.0, "kept": 0.05}],
}
"""Options to check beside the defaults."""


DEFENSES = {listing.name: registry.load("defense", listing.name) for listing in registry.listings("defense")}


@pytest.mark.parametrize("name", sorted(name for name, plugin in DEFENSES.items() if not plugin.learns))
def test_it_keeps_the_contract(name: str) -> None:
    assert DEFENSES[name].name == name
    check_defense(DEFENSES[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(name for name, plugin in DEFENSES.items() if plugin.learns))
def test_a_defense_that_learns_keeps_the_contract_once_it_has(name: str, fit_on_shapes: Callable) -> None:
    plugin = DEFENSES[name]
    assert plugin.name == name
    defense = plugin(plugin.resolve_options("ci", {}))
    check_defense(defense, fit_on_shapes(defense))


@pytest.mark.parametrize(
    ("name", "options"), [(name, options) for name, cases in VARIANTS.items() for options in cases]
)
def test_it_keeps_the_contract_with_other_options(name: str, options: dict[str, Any]) -> None:
    plugin = DEFENSES[name]
    check_defense(plugin(plugin.Options(**options)))


def test_the_control_is_registered() -> None:
    assert {"none", "gaussian", "jpeg"} <= set(DEFENSES)


def test_the_list_of_all_is_complete() -> None:
    ours = {name for name, plugin in DEFENSES.items() if plugin.__module__.startswith("defenses.")}
    specs = {name: [(each["name"], str(each["options"])) for each in listed(name)] for name in LISTS}
    assert {name for name, _ in specs["all"]} == ours
    assert len(specs["all"]) == len(set(specs["all"]))
    assert set(specs["paper"]) | set(specs["best"]) <= set(specs["all"])


def test_whatever_can_be_built_into_a_network_is_in_the_list_so() -> None:
    able = {name for name, plugin in DEFENSES.items() if "apply_to" in plugin.Options.model_fields}
    built_in = {each["name"] for each in listed("all") if each["options"].get("apply_to") == "both"}
    assert able == built_in >= {"grayscale", "jpeg", "purifier"}
