"""`bench fit`: the same training as a run's, outside of one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.cli.fit import fit
from bench.errors import BenchError, EnvironmentFault, SpecError, UnknownName, UsageError
from bench.plan import make_plan
from bench.spec import Matrix
from bench.store import Store

LEARNER = """
    import numpy as np
    from bench.errors import EnvironmentFault
    from bench.protector import ImportedState, Protector, ProtectorOptions

    class Options(ProtectorOptions):
        level: float = 0.5
        fails: bool = False
        needs: str = ""

    class Learner(Protector):
        name = "learner"
        learns = True
        Options = Options

        def prepare(self, report):
            report(1 << 20, 3 << 20, "downloading something")
            if self.options.needs:
                raise EnvironmentFault(f"no {self.options.needs}: get it by hand")

        def fit(self, datasets, context):
            if self.options.fails:
                raise EnvironmentFault("there is nothing to learn from")
            images = sum(len(d.ids("train")) for d in datasets)
            (context.state_dir / "state.txt").write_text(f"{images} {context.seed} {self.options.level}")

        def load(self, state_dir, device):
            return float((state_dir / "state.txt").read_text().split()[2])

        def noise(self, image, annotation, rng, state, run_seed):
            return np.full(image.shape, state)

        @classmethod
        def import_state(cls, file, given):
            folder = file.parent / "imported"
            folder.mkdir()
            (folder / "state.txt").write_text(file.read_text())
            return ImportedState(folder, "sha256:abc", {"weights": "sha256:abc"}, ("one note", f"{given}"))
"""


@pytest.fixture
def store(install_plugins, tmp_path: Path) -> Path:
    install_plugins(LEARNER, {"bench.protectors": "learner = third_party:Learner"})
    return tmp_path / "store"


def run(*arguments: object) -> None:
    fit.main([str(a) for a in arguments], standalone_mode=False)


def learner(store: Path, *arguments: object) -> None:
    run("--protector", "learner", "--profile", "ci", "--store", store, "--device", "cpu", *arguments)


def fit_key(**changes: object) -> str:
    """The key of the fit stage of a run."""
    spec = {"name": "learner", "options": {}, **changes}
    matrix = Matrix(protectors=(spec,), victims=("unetplusplus",), profile="ci", seeds=(2,), controls=False)
    (stage,) = (s for s in make_plan(matrix, Store(Path("unused"))).stages if s.kind == "fit")
    return stage.key


def test_a_run_with_the_same_options_finds_it(store: Path, capsys: pytest.CaptureFixture) -> None:
    flags = ("--seed", 2, "--protector-option", "level=0.25")
    learner(store, *flags, "--dry-run")
    assert [line.split()[0::2] for line in capsys.readouterr().out.splitlines()] == [
        ["data", "to", "draw"],
        ["fit", "to", "fit"],
    ]
    assert not (store / "stages" / "fit").exists()
    learner(store, *flags, "--output", store / "copy")
    out, err = capsys.readouterr()
    assert f"state: {store / 'copy'}" in out
    assert "downloading something: 1 of 3 MiB" in err
    assert "fit learner: done" in err
    key = fit_key(options={"level": 0.25})
    assert key != fit_key()
    assert Store(store).is_done("fit", key)
    state = store / "stages" / "fit" / key / "state" / "state.txt"
    assert (store / "copy" / "state.txt").read_text() == state.read_text()
    assert state.read_text().endswith(" 0.25")
    finished = state.stat().st_mtime_ns
    learner(store, *flags)
    assert state.stat().st_mtime_ns == finished
    assert "started" not in capsys.readouterr().err


def test_a_failure_ends_it_with_its_reason(store: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        learner(store, "--protector-option", "fails=true", "--output", store / "copy")
    assert stop.value.code == 1
    assert "bench: there is nothing to learn from\n" in capsys.readouterr().err
    assert not (store / "copy").exists()


def test_what_is_missing_outside_is_said_before_anything_is_computed(store: Path) -> None:
    with pytest.raises(EnvironmentFault, match="no weights: get it by hand"):
        learner(store, "--protector-option", "needs=weights")
    assert not list(store.glob("stages/*/*"))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["--protector", "lsp"], SpecError, "learns nothing: there is nothing to fit"),
        (["--protector", "lernaer"], UnknownName, "did you mean learner"),
        (["--protector-option", "levle=1"], SpecError, "did you mean level"),
        (["--profile", "tiny"], SpecError, "unknown profile 'tiny'"),
        (["--fit-on", "voc"], SpecError, "--data-root"),
        (["--from", "absent.pth"], UsageError, "no such file"),
        (["--from", __file__, "--fit-on", "shapes"], SpecError, "leave --fit-on out"),
        (["--protector", "lsp", "--from", __file__], UsageError, "cannot use released weights"),
        (["--output", str(Path(__file__).parent)], UsageError, "not empty"),
    ],
)
def test_bad_input_is_refused_before_anything_is_computed(
    store: Path, arguments: list[str], error: type[BenchError], message: str
) -> None:
    with pytest.raises(error) as caught:
        run("--protector", "learner", "--store", store, *arguments)
    assert message in str(caught.value)
    assert not list(store.glob("stages/*/*"))


def test_released_weights_are_converted_by_the_protector(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    released = tmp_path / "released"
    released.write_text(json.dumps({"level": 1}))
    run("--protector", "learner", "--from", released, "--protector-option", "size=3", "--output", store)
    assert capsys.readouterr().out.splitlines() == [
        "one note",
        "{'size': 3}",
        f"state: {store}",
        "use it:",
        "  bench run --protector learner --protector-option weights=sha256:abc --victim mask2former",
        "  bench protect --protector learner --generator sha256:abc --images DIR --masks DIR --output DIR",
    ]
    assert (store / "state.txt").read_text() == released.read_text()
