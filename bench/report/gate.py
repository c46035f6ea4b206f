"""The clean-control gate: a column counts only if its clean victim learned what it should have.

An under-trained victim makes every protector look good, so a column whose clean control is missing, or below
its reference band, is marked invalid.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from bench.keys import key_of

GateState = Literal["valid", "unreferenced", "invalid"]
MARGIN = 0.10
"""By how much a clean victim without a reference band must beat the best constant prediction."""
BAND_WIDTH = 3.0
"""Standard deviations below the reference mean that still count as reached."""
LEAST_DEVIATION = 0.02
"""Least standard deviation of a band: three clean runs can lie close together by luck."""


@dataclass(frozen=True)
class Gate:
    """The verdict on a column.

    Attributes:
        state: `valid`: the clean control reached its band. `unreferenced`: there is no band for this setting;
            the clean control is well above a constant prediction. `invalid`: neither.
        reason: For the note under the table.
    """

    state: GateState
    reason: str


def judge(clean_records: list[dict[str, Any]]) -> Gate:
    """Judges a column by the records of its clean control, one per seed.

    Args:
        clean_records: Finished records of protector `none` with the column's victim, defense and dataset.
    """
    if not clean_records:
        return Gate("invalid", "no clean control")
    head = clean_records[0]
    name = head["scores"]["primary"]
    scores = [r["scores"]["val"][name] for r in clean_records]
    mean = sum(scores) / len(scores)
    if head["cell"]["profile"] == "ci":
        return Gate("invalid", "the ci profile tests the plumbing: its numbers are no results")
    band = bands().get(reference_key(head))
    if band is not None and head["cell"]["defense"]["name"] == "none":
        low = band["mean"] - BAND_WIDTH * max(band["sd"], LEAST_DEVIATION)
        text = (
            f"clean {name} {mean:.3f}, reference {band['mean']:.3f} (n={band['n']}), least accepted {low:.3f}"
        )
        return Gate("valid" if mean >= low else "invalid", text)
    constant = head["scores"]["constant"] or 0.0
    text = f"clean {name} {mean:.3f}, best constant prediction {constant:.3f}"
    if mean < constant + MARGIN:
        return Gate("invalid", f"{text}: the clean victim has learned next to nothing")
    return Gate("unreferenced", text)


def reference_key(clean_record: dict[str, Any]) -> str:
    """What a reference band belongs to: the data (through the unseeded clean copy), the victim, the profile."""
    cell = clean_record["cell"]
    return key_of(
        {"data": clean_record["stages"]["protect"], "victim": cell["victim"], "profile": cell["profile"]}
    )


@cache
def bands() -> dict[str, dict[str, Any]]:
    """Reference bands by key, as measured by `benchmarks/reference_bands.py`."""
    text = files("bench.report").joinpath("reference_bands.json").read_text(encoding="utf-8")
    return json.loads(text)
