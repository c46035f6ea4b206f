"""What the user asks for, as frozen models that refuse unknown keys.

Every field is declared `identity` (it can change a result, so it is part of keys) or `runtime` (it cannot).
A test fails for a field that is neither.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from bench.budget import Budget
from bench.countermeasures import LISTS, listed
from bench.datasets.base import Task
from bench.errors import SpecError
from bench.profiles import Profile, default_profile
from bench.registry import unknown
from bench.victim import Init

Codec = Literal["png", "jpeg95"]


def identity(default: Any = ..., *, added: bool = False, **kwargs: Any) -> Any:
    """A field that can change a result.

    One that was `added` when results existed is left out of keys and records while it has its default.
    """
    return Field(default, json_schema_extra={"role": "identity", "added": added}, **kwargs)


def runtime(default: Any = ..., **kwargs: Any) -> Any:
    """A field that cannot change a result."""
    return Field(default, json_schema_extra={"role": "runtime"}, **kwargs)


class Spec(BaseModel):
    """Base of the specs: frozen, strict about keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DatasetSpec(Spec):
    """A dataset.

    Attributes:
        name: Registered name of the adapter.
        root: Folder of a dataset that is not generated. Its content counts (the fingerprint), its place does not.
        image_size: Longest side in pixels to which a resized copy is made first; None keeps the files.
        options: Options of the adapter.
    """

    name: str = identity("shapes")
    root: Path | None = runtime(None)
    image_size: int | None = identity(None, ge=8, le=16384)
    options: dict[str, Any] = identity({})


class ProtectorSpec(Spec):
    """A protector with its budget.

    Attributes:
        name: Registered name.
        budget: Budget per pixel, in levels.
        options: Options of the protector; what is left open is filled in by profile.
        fit_on: Datasets that a learning protector is trained on. Empty: the embedded `shapes`, drawn from
            another series than the scenes that are protected.
    """

    name: str = identity()
    budget: Budget = identity(Budget())
    options: dict[str, Any] = identity({})
    fit_on: tuple[DatasetSpec, ...] = identity(())


class VictimSpec(Spec):
    """A victim.

    Attributes:
        name: Registered name; or a config file of mmseg or mmdet, by its path or by the name under which they
            ship it. Config files are executed.
        task: None takes the first task that the victim and the dataset share.
        init: Starting weights.
        options: Options of the victim; what is left open is filled in by profile.
    """

    name: str = identity()
    task: Task | None = identity(None)
    init: Init = identity("scratch")
    options: dict[str, Any] = identity({})


class DefenseSpec(Spec):
    """A defense.

    Attributes:
        name: Registered name.
        options: Options of the defense; what is left open is filled in by profile.
        fit_on: Datasets of clean images of others that a learning defense is trained on. Empty: the embedded
            `shapes`, drawn from another series than the scenes that are protected, and than those that a
            protector learns from.
    """

    name: str = identity("none")
    options: dict[str, Any] = identity({})
    fit_on: tuple[DatasetSpec, ...] = identity((), added=True)


class Cell(Spec):
    """One evaluated cell of a matrix.

    Attributes:
        dataset: What is protected and trained on.
        protector: How the training images are protected.
        victim: What is trained.
        defense: What the attacker does about it.
        profile: Size of the experiment.
        codec: How protected images are stored; `jpeg95` exists for parity with the official code.
        seed: Seed of everything random in the cell.
        clean_ratio: Share of the training images that the attacker has unprotected, in [0, 1). With the protector
            `none` the others are left out: the clean-only baseline with the same number of clean images.
        curve: How many times, evenly spread over its training, the victim is scored, the end included; 0: at
            the end only.
    """

    dataset: DatasetSpec = identity()
    protector: ProtectorSpec = identity()
    victim: VictimSpec = identity()
    defense: DefenseSpec = identity(DefenseSpec())
    profile: Profile = identity()
    codec: Codec = identity("png")
    seed: int = identity(0, ge=0)
    clean_ratio: float = identity(0.0, ge=0, lt=1)
    curve: int = identity(0, ge=0, le=1000)


class Matrix(Spec):
    """A matrix of cells: the product of its lists.

    Attributes:
        name: Names the table that comes out.
        dataset: What is protected and trained on.
        protectors: Protectors; the clean control and both random controls are added by `controls`.
        victims: Victims.
        defenses: Defenses; or the name of a list of them, `paper`, `best` or `all`, for all that are in it.
        seeds: Seeds; three or more for a table that counts.
        profile: Size of the experiment; None takes `gpu` with CUDA and `cpu` without.
        codec: How protected images are stored.
        controls: Whether to add the clean control and the two random controls of each protector.
        clean_ratios: Shares of unprotected training images, in [0, 1). Every ratio above 0 makes each row once more,
            mixed so, beside the clean-only baseline of as many images. The clean control is always trained on all.
        curve: Points of the score's curve over each training; 0 draws none.
    """

    name: str = runtime("run", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,79}$")
    dataset: DatasetSpec = identity(DatasetSpec())
    protectors: tuple[ProtectorSpec, ...] = identity(min_length=1)
    victims: tuple[VictimSpec, ...] = identity(min_length=1)
    defenses: tuple[DefenseSpec, ...] = identity((DefenseSpec(),), min_length=1)
    seeds: tuple[int, ...] = identity((0,), min_length=1)
    profile: Profile = identity(default_factory=default_profile)
    codec: Codec = identity("png")
    controls: bool = identity(True)
    clean_ratios: tuple[Annotated[float, Field(ge=0, lt=1)], ...] = identity((0.0,), min_length=1)
    curve: int = identity(0, ge=0, le=1000)

    @field_validator("protectors", "victims", mode="before")
    @classmethod
    def _names_are_specs(cls, value: Any) -> Any:
        return [{"name": item} if isinstance(item, str) else item for item in value]

    @field_validator("defenses", mode="before")
    @classmethod
    def _lists_are_specs(cls, value: Any) -> Any:
        specs: list[Any] = []
        for item in value:
            item = {"name": item} if isinstance(item, str) else item
            name = item.get("name") if isinstance(item, dict) else None
            if name in LISTS and item.get("options"):
                raise ValueError(
                    f"{name} is a list of defenses, which have no options in common: name one of them"
                )
            specs += listed(name) if name in LISTS else [item]
        return list({_told_apart(spec): spec for spec in specs}.values())

    @field_validator("dataset", mode="before")
    @classmethod
    def _name_is_dataset(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value


class Execution(Spec):
    """How a plan is worked off. Nothing here changes a result.

    Attributes:
        store: Folder of stages and records.
        device: `cpu`, `cuda`, or `auto`.
        jobs: Worker processes at a time; 0 chooses: one per GPU, or as many as two cores apart on a CPU.
        threads: CPU threads of one worker; 0 shares the cores between the jobs.
        loader_workers: Data loading processes of one training.
        fit_processes: Processes, each on a GPU of its own with CUDA, that share the fit of a protector that
            can be shared. Its result is that of one process up to rounding.
    """

    store: Path = runtime(Path("results"))
    device: str = runtime("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    jobs: int = runtime(0, ge=0, le=64)
    threads: int = runtime(0, ge=0, le=256)
    loader_workers: int = runtime(0, ge=0, le=64)
    fit_processes: int = runtime(1, ge=1, le=64)


def identity_of(spec: BaseModel) -> dict[str, Any]:
    """The identity fields of a spec as plain JSON values, nested specs included."""
    values: dict[str, Any] = {}
    for name, field in type(spec).model_fields.items():
        if isinstance(spec, Spec) and (role_of(field) == "runtime" or _left_out(spec, name)):
            continue
        values[name] = _plain(getattr(spec, name))
    return values


def plain_options(options: BaseModel) -> dict[str, Any]:
    """A plugin's resolved options as plain JSON values, as they enter keys and records.

    Fields that a plugin names in `ADDED` came after results existed: they are left out while they have their
    default, so that what was computed before keeps its key.
    """
    values = options.model_dump(mode="json")
    defaults = {name: type(options).model_fields[name].default for name in options.ADDED}
    return {k: v for k, v in values.items() if k not in defaults or getattr(options, k) != defaults[k]}


def _told_apart(spec: Any) -> str:
    """Equal for specs, not validated yet, that mean the same."""
    return repr(sorted({"options": {}, **spec}.items())) if isinstance(spec, dict) else repr(spec)


def role_of(field: Any) -> str | None:
    """`identity`, `runtime`, or None for a field that declares neither."""
    extra = field.json_schema_extra
    return extra.get("role") if isinstance(extra, dict) else None


def _left_out(spec: Spec, name: str) -> bool:
    field = type(spec).model_fields[name]
    extra = field.json_schema_extra
    return isinstance(extra, dict) and bool(extra.get("added")) and getattr(spec, name) == field.default


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return identity_of(value)
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return str(value) if isinstance(value, Path) else value


def validated(model: type[BaseModel], values: dict[str, Any], where: str) -> Any:
    """Builds `model` from user input; a mistake becomes one line that names it and the nearest field.

    Raises:
        SpecError: The first mistake, with its place.
    """
    try:
        return model(**values)
    except ValidationError as error:
        raise spec_error(error, model, where) from error


def spec_error(error: ValidationError, model: type[BaseModel], where: str) -> SpecError:
    """The first mistake of a validation as one line, with its place and, for a wrong key, the nearest one."""
    # A misspelt key is often why another one is "missing": name the misspelling first.
    first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    path = [str(part) for part in first["loc"]]
    if first["type"] == "extra_forbidden":
        fields = list(_model_at(model, first["loc"][:-1]).model_fields)
        return SpecError(f"{where}: {unknown('option', path[-1], fields)}")
    place = f"{'.'.join(path)}: " if path else ""
    said = first["msg"].removeprefix("Value error, ")  # pydantic's own words before those of our validators
    message = said[0].lower() + said[1:]
    # Without a place it is about several fields together, and what was given is all of them.
    given = "" if first["type"] == "missing" or not path else f", not {first.get('input')!r}"
    more = f" ({len(error.errors()) - 1} more)" if len(error.errors()) > 1 else ""
    return SpecError(f"{where}: {place}{message}{given}{more}")


def read_matrices(path: Path) -> tuple[Matrix, ...]:
    """Reads the matrices of one table from a TOML file.

    A file is one matrix; or, for a table over several datasets, victims with settings of their own and so on, what
    they share and a list `[[matrices]]` of what each has besides or instead. Relative paths of datasets and
    config files are relative to the file.

    Raises:
        SpecError: No such file, no TOML, or a mistake in it, with its place.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SpecError(f"no matrix file {path}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise SpecError(f"{path} is no readable TOML file: {error}") from error
    values.setdefault("name", path.stem)
    parts = values.pop("matrices", [{}])
    if not isinstance(parts, list) or not parts or not all(isinstance(part, dict) for part in parts):
        raise SpecError(f"{path}: matrices is a list of tables: write [[matrices]] over each")
    if any("name" in part for part in parts):
        raise SpecError(f"{path}: the name is that of the whole table: write it above the first [[matrices]]")
    where = [
        f"{path}, matrix {number}" if len(parts) > 1 else str(path) for number in range(1, len(parts) + 1)
    ]
    return tuple(
        _anchored(validated(Matrix, {**values, **part}, place), path.parent)
        for part, place in zip(parts, where, strict=True)
    )


def _anchored(matrix: Matrix, folder: Path) -> Matrix:
    """The matrix with its relative paths taken from `folder`."""

    def anchored(dataset: DatasetSpec) -> DatasetSpec:
        if dataset.root is None:
            return dataset
        return dataset.model_copy(update={"root": folder / dataset.root.expanduser()})

    def learning(specs: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(s.model_copy(update={"fit_on": tuple(map(anchored, s.fit_on))}) for s in specs)

    victims = tuple(
        v.model_copy(update={"name": str(folder / v.name)})
        if v.name.endswith(".py") and (folder / v.name).is_file()
        else v
        for v in matrix.victims
    )
    return matrix.model_copy(
        update={
            "dataset": anchored(matrix.dataset),
            "protectors": learning(matrix.protectors),
            "victims": victims,
            "defenses": learning(matrix.defenses),
        }
    )


def _model_at(model: type[BaseModel], path: tuple[Any, ...]) -> type[BaseModel]:
    """The nested model that a validation error's location points into."""
    for part in path:
        if isinstance(part, int):
            continue
        annotation = model.model_fields[part].annotation
        candidates = [annotation, *getattr(annotation, "__args__", ())]
        model = next(c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel))
    return model
