"""Expands a matrix to cells, and cells to stages with keys; equal stages are merged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bench import registry
from bench.budget import Budget
from bench.datasets.base import Dataset, Task
from bench.defense import SCORING_OPTIONS
from bench.errors import SpecError
from bench.keys import key_of
from bench.learner import Learner
from bench.profiles import Profile
from bench.protector import Protector
from bench.spec import (
    Cell,
    DatasetSpec,
    DefenseSpec,
    Matrix,
    ProtectorSpec,
    VictimSpec,
    identity_of,
    plain_options,
    spec_error,
)
from bench.store import Store

EVALUATION_VERSION = 1
"""Raised whenever the same predictions would be scored differently."""
FIT_SERIES = {"protector": 1000, "defense": 2000}
"""Added to the seed of `shapes` for the scenes that protectors and defenses learn from: never the protected ones."""


@dataclass(frozen=True)
class Stage:
    """One unit of work.

    Attributes:
        kind: `data`, `fit`, `protect`, `train` or `evaluate`.
        key: Key of `identity`.
        identity: Everything that can change the stage's output.
        inputs: Keys of the stages it reads, by role.
        datasets: How to open each dataset that it reads, by role: adapter, options, and the folder or the
            stage in which it lies.
        label: For people.
    """

    kind: str
    key: str
    identity: dict[str, Any]
    inputs: dict[str, str] = field(default_factory=dict)
    datasets: dict[str, Any] = field(default_factory=dict)
    label: str = ""

    @property
    def id(self) -> tuple[str, str]:
        """Kind and key."""
        return (self.kind, self.key)

    @property
    def input_ids(self) -> list[tuple[str, str]]:
        """The stages that it waits for. Roles are kinds, with a number where there are several."""
        return [(role.rstrip("0123456789"), key) for role, key in self.inputs.items()]


@dataclass(frozen=True)
class PlannedCell:
    """A cell with the stages that make it.

    Attributes:
        cell: What was asked for, options resolved, so that the record tells everything.
        label: For people.
        stages: Keys by kind; `evaluate` is also the key of the record. The `fit` of a defense is `defense_fit`.
        skipped: Why the cell is not run: defense and victim do not go together. Empty for all others.
    """

    cell: Cell
    label: str
    stages: dict[str, str]
    skipped: str = ""

    @property
    def key(self) -> str:
        """Key of the cell's record."""
        return self.stages["evaluate"]

    @property
    def stage_ids(self) -> list[tuple[str, str]]:
        """Its stages, each by kind and key; none for a cell that is not run."""
        if self.skipped:
            return []
        return [(role.removeprefix("defense_"), key) for role, key in self.stages.items()]


@dataclass(frozen=True)
class Plan:
    """The cells of one or several matrices, and their stages in an order in which they can be worked off.

    Attributes:
        tables: Keys of the cells of each table, by the name of its matrices.
        cells: The cells, each once.
        stages: Their stages, each once.
    """

    tables: dict[str, tuple[str, ...]]
    cells: tuple[PlannedCell, ...]
    stages: tuple[Stage, ...]


@dataclass(frozen=True)
class _Source:
    """A dataset as an input: its key, and how to open it."""

    key: str
    opening: dict[str, Any]
    dataset: Dataset
    stage: Stage | None


def make_plan(matrices: Matrix | Sequence[Matrix], store: Store) -> Plan:
    """Plans matrices, of one table where they have the same name. Reads datasets, and computes nothing.

    Raises:
        UnknownName: A protector, victim, defense, dataset or option that does not exist.
        SpecError: A combination that does not exist.
        DatasetError: A dataset folder that is missing or malformed.
    """
    given = [matrices] if isinstance(matrices, Matrix) else list(matrices)
    planners = [_Planner(matrix, store) for matrix in given]
    tables: dict[str, dict[str, PlannedCell]] = {}
    for planner in planners:
        tables.setdefault(planner.matrix.name, {}).update({cell.key: cell for cell in planner.cells()})
    cells = {key: cell for table in tables.values() for key, cell in table.items()}
    stages = {key: stage for planner in planners for key, stage in planner.stages.items()}
    return Plan(
        {name: tuple(table) for name, table in tables.items()}, tuple(cells.values()), tuple(stages.values())
    )


def make_fit_plan(
    spec: ProtectorSpec, dataset: DatasetSpec, profile: Profile, seed: int, store: Store
) -> Plan:
    """Plans what trains a protector, and nothing after it: the `fit` stage that a run would have.

    Args:
        spec: The protector.
        dataset: What it is to protect later. Without `spec.fit_on` the scenes that it is trained on are drawn
            as those of `dataset` are.
        profile: Size of the experiment.
        seed: Seed of the training.
        store: Where stages lie.

    Raises:
        SpecError: The protector learns nothing.
        BenchError: As for `make_plan`.
    """
    # No cell is planned, so this matrix needs no victims.
    matrix = Matrix.model_construct(dataset=dataset, protectors=(spec,), seeds=(seed,), profile=profile)
    return _Planner(matrix, store).fit_plan()


class _Planner:
    def __init__(self, matrix: Matrix, store: Store) -> None:
        self.matrix = matrix
        self.store = store
        self.stages: dict[tuple[str, str], Stage] = {}
        self.sources: dict[str, _Source] = {}
        self.victims: dict[str, tuple[Any, Any]] = {}

    def cells(self) -> list[PlannedCell]:
        source = self._source(self.matrix.dataset)
        rows = self._mixed(self._rows(source))
        cells = []
        # Seeds outermost: a first full table is there as early as possible.
        for seed in self.matrix.seeds:
            for defense in self.matrix.defenses:
                for victim in self.matrix.victims:
                    for protector, ratio in rows:
                        cells.append(self._cell(source, protector, victim, defense, seed, ratio))
        return cells

    def fit_plan(self) -> Plan:
        for spec in self.matrix.protectors:
            protector = registry.load("protector", spec.name)
            if not protector.learns:
                raise SpecError(f"protector {spec.name!r} learns nothing: there is nothing to fit")
            resolved = self._resolved(spec)
            for seed in self.matrix.seeds:
                self._fit_stage("protector", resolved, protector, seed)
        return Plan({}, (), tuple(self.stages.values()))

    def _options(self, plugin: Any, kind: str, given: dict[str, Any]) -> Any:
        """A plugin's options, completed by profile; a mistake becomes one line."""
        try:
            return plugin.resolve_options(self.matrix.profile, dict(given))
        except ValidationError as error:
            raise spec_error(error, plugin.Options, f"{kind} {plugin.name!r}") from error

    # ---- datasets --------------------------------------------------------------------------------

    def _source(self, spec: DatasetSpec) -> _Source:
        remembered = spec.model_dump_json()
        if remembered not in self.sources:
            self.sources[remembered] = self._open_source(spec)
        return self.sources[remembered]

    def _open_source(self, spec: DatasetSpec) -> _Source:
        adapter: type[Dataset] = registry.load("dataset", spec.name)
        options = self._options(adapter, "dataset", spec.options)
        given = plain_options(options)
        if adapter.generated:
            if spec.root is not None:
                raise SpecError(f"dataset {spec.name!r} is generated: it takes no --data-root")
            if spec.image_size is not None:
                raise SpecError(f"dataset {spec.name!r} is generated: set its option image_size instead")
            identity = {"stage": "data", "dataset": spec.name, "version": adapter.version, "options": given}
            stage = self._stage("data", identity, label=f"draw {spec.name}")
            opening = {"name": spec.name, "options": given, "stage": ["data", stage.key]}
            return _Source(stage.key, opening, adapter(Path(), options), stage)
        if spec.root is None:
            raise SpecError(
                f"dataset {spec.name!r} is not generated: say where it lies with --data-root DIR, or with "
                f"--fit-on {spec.name}=DIR where a protector learns from it, --defense-fit-on where a defense does"
            )
        root = spec.root.expanduser().absolute()
        dataset = adapter(root, options)
        dataset.check()
        from bench.datasets.fingerprint import fingerprint

        remembered = self.store.root / "fingerprints" / f"{key_of(str(root))}.json"
        content = fingerprint(dataset, remembered)
        source_identity = {
            "dataset": spec.name,
            "version": adapter.version,
            "options": given,
            "fingerprint": content,
        }
        opening = {"name": spec.name, "options": given, "root": str(root)}
        if spec.image_size is None:
            return _Source(key_of(source_identity), opening, dataset, None)
        stage = self._stage(
            "data",
            {"stage": "data", "image_size": spec.image_size, **source_identity},
            datasets={"source": opening},
            label=f"resize {spec.name} to {spec.image_size} px",
        )
        resized = {"name": spec.name, "options": given, "stage": ["data", stage.key]}
        return _Source(stage.key, resized, dataset, stage)

    def _nominal_side(self, source: _Source, spec: DatasetSpec) -> int:
        return spec.image_size or source.dataset.nominal_side()

    # ---- rows ------------------------------------------------------------------------------------

    def _rows(self, source: _Source) -> list[ProtectorSpec]:
        """The protectors, resolved, after the controls that stand beside them."""
        protectors = [self._resolved(p) for p in self.matrix.protectors]
        rows: list[ProtectorSpec] = []
        if self.matrix.controls:
            for spec in protectors:
                if spec.name != "none":
                    rows += self._random_controls(spec, source)
        rows += protectors
        return list({spec.model_dump_json(): spec for spec in rows}.values())

    def _mixed(self, rows: list[ProtectorSpec]) -> list[tuple[ProtectorSpec, float]]:
        """Every row with every share of clean images, the clean control and baseline where controls are asked for."""
        clean = [self._resolved(ProtectorSpec(name="none"))] if self.matrix.controls else []
        mixed = [(spec, 0.0) for spec in clean]
        for ratio in self.matrix.clean_ratios:
            mixed += [(spec, ratio) for spec in (*clean, *rows)]
        return list({(spec.model_dump_json(), ratio): (spec, ratio) for spec, ratio in mixed}.values())

    def _resolved(self, spec: ProtectorSpec) -> ProtectorSpec:
        protector: type[Protector] = registry.load("protector", spec.name)
        options = self._options(protector, "protector", spec.options)
        fit_on = self._fit_data(protector(options), "protector", spec.fit_on)
        budget = spec.budget
        if spec.name == "none":
            budget = Budget(kind="uniform", epsilon=0, epsilon_background=0)
        elif budget.kind == "uniform":  # the background's epsilon is not read: no two keys for one thing
            budget = Budget(kind="uniform", epsilon=budget.epsilon, epsilon_background=budget.epsilon)
        return spec.model_copy(update={"options": plain_options(options), "fit_on": fit_on, "budget": budget})

    def _fit_data(
        self, plugin: Learner, kind: str, given: tuple[DatasetSpec, ...]
    ) -> tuple[DatasetSpec, ...]:
        """What a plugin learns from: what was asked for, or scenes like those of this matrix, drawn for it."""
        if given and not plugin.trains:
            flag = "--fit-on" if kind == "protector" else "--defense-fit-on"
            raise SpecError(f"{kind} {plugin.name!r} learns nothing: it takes no {flag}")
        if given or not plugin.trains:
            return given
        shapes: type[Dataset] = registry.load("dataset", "shapes")
        drawn = dict(self.matrix.dataset.options) if self.matrix.dataset.name == "shapes" else {}
        options = plain_options(self._options(shapes, "dataset", drawn))
        return (DatasetSpec(name="shapes", options={**options, "seed": options["seed"] + FIT_SERIES[kind]}),)

    def _random_controls(self, spec: ProtectorSpec, source: _Source) -> list[ProtectorSpec]:
        """Random noise under both budgets, on the grid of the noise that it stands beside."""
        plugin = registry.load("protector", spec.name)
        side = self._nominal_side(source, self.matrix.dataset)
        grid = plugin(plugin.Options(**spec.options)).noise_grid(side, side)
        options = {} if grid >= side else {"grid": grid}
        epsilon, background = spec.budget.epsilon, spec.budget.epsilon_background
        if spec.budget.kind == "uniform":
            background = min(Budget().epsilon_background, epsilon)
        budgets = (
            Budget(kind="uniform", epsilon=epsilon, epsilon_background=epsilon),
            Budget(kind="mask", epsilon=epsilon, epsilon_background=background),
        )
        return [self._resolved(ProtectorSpec(name="random", options=options, budget=b)) for b in budgets]

    def _victim(self, spec: VictimSpec) -> tuple[Any, Any]:
        """The victim's class and its options. Config files are read once a plan: reading executes them."""
        remembered = spec.model_dump_json()
        if remembered not in self.victims:
            victim, given = registry.resolve("victim", spec.name)
            self.victims[remembered] = victim, self._options(victim, "victim", {**given, **spec.options})
        return self.victims[remembered]

    # ---- cells -----------------------------------------------------------------------------------

    def _cell(
        self,
        source: _Source,
        protector_spec: ProtectorSpec,
        victim_spec: VictimSpec,
        defense_spec: DefenseSpec,
        seed: int,
        clean_ratio: float,
    ) -> PlannedCell:
        matrix = self.matrix
        protector: type[Protector] = registry.load("protector", protector_spec.name)
        victim, victim_options = self._victim(victim_spec)
        defense = registry.load("defense", defense_spec.name)
        trained = victim(victim_options)
        task = choose_task(trained, victim_spec, source.dataset)
        if victim_spec.init not in victim.inits:
            raise SpecError(
                f"victim {victim_spec.name!r} has no init {victim_spec.init!r}: "
                f"there is {', '.join(victim.inits)}"
            )
        trained.check(victim_spec.init)
        defense_options = self._options(defense, "defense", defense_spec.options)
        defense_data = self._fit_data(defense(defense_options), "defense", defense_spec.fit_on)
        cell = Cell(
            dataset=matrix.dataset.model_copy(update={"options": source.opening["options"], "root": None}),
            protector=protector_spec,
            victim=victim_spec.model_copy(
                update={
                    "name": shown_name(victim, victim_spec.name),
                    "task": task,
                    "options": plain_options(victim_options),
                }
            ),
            defense=defense_spec.model_copy(
                update={"options": plain_options(defense_options), "fit_on": defense_data}
            ),
            profile=matrix.profile,
            codec=matrix.codec,
            seed=seed,
            clean_ratio=clean_ratio,
            curve=matrix.curve,
        )
        refusal = defense(defense_options).refusal(trained, task)
        if refusal:
            key = key_of({"stage": "skipped", "data": source.key, **identity_of(cell)})
            return PlannedCell(cell, describe_row(cell.protector, clean_ratio), {"evaluate": key}, refusal)
        stages: dict[str, str] = {}
        fit = self._fit_stage("protector", cell.protector, protector, seed)
        if fit:
            stages["fit"] = fit.key
        purifier = self._fit_stage("defense", cell.defense, defense, seed)
        if purifier:
            stages["defense_fit"] = purifier.key
        protect = self._protect_stage(cell, protector, source, fit)
        stages["protect"] = protect.key
        reads = {
            "train": {**source.opening, "stage": ["protect", protect.key], "subfolder": "dataset"},
            "val": source.opening,
        }
        tests_too = defense(defense_options).tests_too
        uses_clean = bool(clean_ratio) or defense.needs_clean
        if uses_clean:
            reads["clean"] = source.opening
        mixture = {"clean_ratio": clean_ratio, "clean_only": protector_spec.name == "none"}
        source_input = {"data": source.stage.key} if source.stage else {}
        label = describe_row(cell.protector, clean_ratio)
        train = self._stage(
            "train",
            {
                "stage": "train",
                "protect": protect.key,
                # A config file's own name is for people: what identifies it is its content.
                "victim": {"version": victim.version, **identity_of(cell.victim), "name": victim.name},
                "defense": {
                    "version": defense.version,
                    "name": cell.defense.name,
                    "options": {k: v for k, v in cell.defense.options.items() if k not in SCORING_OPTIONS},
                    **({"fit": purifier.key} if purifier else {}),
                },
                "profile": cell.profile,
                "seed": seed,
                # Left out where it is 0: a training without a curve keeps the key that it always had.
                **({"curve": cell.curve} if cell.curve else {}),
                **({"mixture": mixture} if clean_ratio else {}),
            },
            inputs={
                "protect": protect.key,
                **({"fit": purifier.key} if purifier else {}),
                **(source_input if uses_clean else {}),
            },
            datasets={role: opening for role, opening in reads.items() if role != "val"},
            label=f"train {cell.victim.name} on {label}",
        )
        evaluate = self._stage(
            "evaluate",
            {
                "stage": "evaluate",
                "train": train.key,
                "data": source.key,
                "version": EVALUATION_VERSION,
                **({"defense": {"options": cell.defense.options}} if tests_too else {}),
            },
            inputs={
                "train": train.key,
                "protect": protect.key,
                **source_input,
                **({"fit": purifier.key} if purifier and tests_too else {}),
            },
            datasets=reads,
            label=f"evaluate {cell.victim.name} after {label}",
        )
        stages |= {"train": train.key, "evaluate": evaluate.key}
        return PlannedCell(cell, label, stages)

    def _fit_stage(
        self, kind: str, spec: ProtectorSpec | DefenseSpec, plugin: type[Learner], seed: int
    ) -> Stage | None:
        if not plugin.learns:
            return None
        trains = plugin(plugin.Options(**spec.options)).trains
        sources = [self._source(d) for d in spec.fit_on]
        return self._stage(
            "fit",
            {
                "stage": "fit",
                kind: spec.name,
                "version": plugin.version,
                "options": {k: v for k, v in spec.options.items() if k not in plugin.deployment_options},
                "data": [s.key for s in sources],
                "seed": seed if trains else None,
            },
            inputs={f"data{i}": s.stage.key for i, s in enumerate(sources) if s.stage},
            datasets={f"fit{i}": s.opening for i, s in enumerate(sources)},
            label=f"fit {spec.name}",
        )

    def _protect_stage(
        self, cell: Cell, protector: type[Protector], source: _Source, fit: Stage | None
    ) -> Stage:
        spec = cell.protector
        return self._stage(
            "protect",
            {
                "stage": "protect",
                "protector": spec.name,
                "version": protector.version,
                "options": spec.options,
                "budget": spec.budget.model_dump(mode="json"),
                "codec": cell.codec,
                "data": source.key,
                "fit": fit.key if fit else None,
                "seed": cell.seed if protector.seeded else None,
            },
            inputs={
                **({"data": source.stage.key} if source.stage else {}),
                **({"fit": fit.key} if fit else {}),
            },
            datasets={"data": source.opening},
            label=f"protect with {describe_protector(spec)}",
        )

    def _stage(
        self,
        kind: str,
        identity: dict[str, Any],
        inputs: dict[str, str] | None = None,
        datasets: dict[str, Any] | None = None,
        label: str = "",
    ) -> Stage:
        stage = Stage(kind, key_of(identity), identity, inputs or {}, datasets or {}, label)
        return self.stages.setdefault(stage.id, stage)


def shown_name(victim: Any, name: str) -> str:
    """What tables call a victim: its registered name, or the name of its config file wherever it lies."""
    return name if name == victim.name else f"{name.rpartition('/')[2].removesuffix('.py')}.py"


def choose_task(victim: Any, spec: VictimSpec, dataset: Dataset) -> Task:
    """The task that a victim is trained for on a dataset.

    Raises:
        SpecError: They share none, or not the one asked for.
    """
    if not victim.tasks and spec.task is None:
        raise SpecError(f"victim {spec.name!r} does not say what it predicts: give --task")
    known = victim.tasks or (spec.task,)
    shared = [task for task in known if task in dataset.tasks]
    if not shared:
        raise SpecError(
            f"victim {spec.name!r} ({', '.join(known)}) and dataset {dataset.name!r} "
            f"({', '.join(sorted(dataset.tasks))}) share no task"
        )
    if spec.task is None:
        return shared[0]
    if spec.task not in shared:
        raise SpecError(
            f"victim {spec.name!r} on dataset {dataset.name!r} has no task {spec.task!r}: there is {', '.join(shared)}"
        )
    return spec.task


def describe_protector(spec: ProtectorSpec) -> str:
    """A short name of a protector with its budget, for a table's row."""
    if spec.name == "none":
        return "clean"
    budget = spec.budget
    text = f"{budget.epsilon:g}/255"
    if budget.kind == "mask":
        text += f" mask, {budget.epsilon_background:g}/255 outside"
    else:
        text += " uniform"
    if spec.options.get("grid"):
        text += f", {spec.options['grid']} cells"
    if spec.options.get("tile"):
        text += f", one {spec.options['tile']}x{spec.options['tile']} tile"
    return f"{spec.name} {text}"


def describe_row(spec: ProtectorSpec, clean_ratio: float, name: str | None = None) -> str:
    """A table's row: the protector (`name`, if it needs a longer one) and the share of clean images beside it."""
    if not clean_ratio:
        return name or describe_protector(spec)
    if spec.name == "none":
        return f"clean only, {100 * clean_ratio:g} % of the images"
    return f"{name or describe_protector(spec)}; {100 * clean_ratio:g} % clean"
