"""Fixtures that several tests share."""

from __future__ import annotations

import signal
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench import registry
from bench.datasets.shapes.dataset import Shapes
from bench.learner import FitContext, Learner

# A shell that runs the tests in the background makes them ignore Ctrl-C, which several of them test.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def denormal_numbers() -> Iterator[None]:
    """Undoes the flushing of denormal numbers that commands switch on: hypothesis refuses to draw without them."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)


@pytest.fixture
def fit_on_shapes(tmp_path: Path) -> Callable[[Learner], Any]:
    """Lets a plugin learn from the scenes of profile `ci`; returns the state that it then works with."""

    def fit(learner: Learner) -> Any:
        dataset = Shapes(tmp_path / "data", Shapes.resolve_options("ci", {}))
        dataset.generate()
        work, state = tmp_path / "work", tmp_path / "state"
        work.mkdir()
        state.mkdir()
        learner.fit([dataset], FitContext(work_dir=work, state_dir=state, seed=0, device="cpu"))
        return learner.load(state, "cpu")

    return fit


@pytest.fixture
def install_plugins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str, dict[str, str]], None]]:
    """Installs a small third-party distribution, for this process and for the workers that it starts.

    Call it with the source of a module `third_party` and `{group: "name = third_party:Class"}`.
    """

    def install(source: str, entry_points: dict[str, str]) -> None:
        site = tmp_path / "site"
        info = site / "third_party-1.0.dist-info"
        info.mkdir(parents=True)
        (site / "third_party.py").write_text(textwrap.dedent(source))
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: third-party\nVersion: 1.0\n")
        lines = "".join(f"[{group}]\n{point}\n" for group, point in entry_points.items())
        (info / "entry_points.txt").write_text(lines)
        monkeypatch.syspath_prepend(str(site))
        monkeypatch.setenv("PYTHONPATH", str(site))
        registry._entry_points.cache_clear()

    yield install
    sys.modules.pop("third_party", None)
    registry._entry_points.cache_clear()
