"""From records to numbers: groups of cells over seeds, with intervals, drops and gates."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from bench import registry
from bench.countermeasures import LISTS
from bench.errors import BenchError
from bench.keys import canonical
from bench.metrics.base import metric_type
from bench.plan import describe_protector, describe_row
from bench.report.gate import Gate, judge
from bench.report.statistics import (
    Estimate,
    align,
    bootstrap,
    bootstrap_difference,
    bootstrap_seeds,
    bootstrap_seeds_difference,
)
from bench.spec import ProtectorSpec
from bench.store import Store

Record = dict[str, Any]
CONTROLS = ("random",)


@dataclass(frozen=True)
class Row:
    """One protector under one victim and defense, over its seeds.

    Attributes:
        label: Protector and budget.
        role: `clean`, `control` or `protector`.
        protector: `label` without the share of clean images.
        clean_ratio: Share of the training images that were clean; 0 for the clean row, where nothing is protected.
        score: Primary score on clean validation images, with its interval.
        drop: Score minus the clean twin's, paired by seed and image; None for the clean row and without twins.
        beyond: Score minus that of new random noise for every image with the same budget, paired likewise:
            what the method adds to its budget. None for the clean row, that control itself and without it.
        over_clean_only: Score minus that of the clean images of the mixture alone, paired likewise: what the
            protected images still gave to an attacker who had clean ones. None without a mixture or that baseline.
        own_train: Mean score on the victim's own (protected) training images.
        psnr: Mean PSNR in dB of the protected files; None where nothing changed.
        ssim: Mean SSIM.
        linf: Greatest change in levels (inside the mask, outside).
        noise: What the noise is like (`bench.metrics.noise`), of the first seed; None where it was not measured.
        seeds: Seeds with a result.
        missing: Why a seed has no result, by seed.
        seconds: Mean wall seconds of fit, protect, train and evaluate.
        gpu_seconds: Mean GPU seconds of the same.
        curves: For each seed the scores over the training, as the records hold them.
        protected: What was measured of the protected images, PSNR in dB and SSIM, by the key of what made them: with
            the same key, other values mean other images.
    """

    label: str
    role: str
    protector: str
    clean_ratio: float
    score: Estimate
    drop: Estimate | None
    beyond: Estimate | None
    over_clean_only: Estimate | None
    own_train: float | None
    psnr: float | None
    ssim: float | None
    linf: tuple[int, int] | None
    noise: dict[str, Any] | None
    seeds: tuple[int, ...]
    missing: dict[int, str]
    seconds: float
    gpu_seconds: float
    curves: tuple[list[dict[str, Any]], ...] = ()
    protected: dict[str, tuple[float | None, float | None]] = field(default_factory=dict)


@dataclass(frozen=True)
class Column:
    """One victim under one defense on one dataset: what is compared with one another.

    Attributes:
        dataset: Name and size of the dataset.
        victim: Name of the victim, with the options in which it differs from others of its name there.
        task: Task.
        init: Starting weights.
        defense: Name and options of the defense.
        defense_name: Its name alone.
        defense_options: Its options.
        learned_from: Datasets that it learned from; empty where it did not, or as it does by default.
        needs: What an attacker needs for it besides the protected images, and how much longer the training may
            take, as it declares; empty for nothing, and for a defense that is not installed.
        needs_clean: Whether that includes clean images with labels.
        profile: Profile.
        codec: Codec of the protected files.
        metric: Name of the score.
        gate: Verdict of the clean control.
        rows: Clean, controls, protectors, in this order.
    """

    dataset: str
    victim: str
    task: str
    init: str
    defense: str
    defense_name: str
    defense_options: dict[str, Any]
    learned_from: str
    needs: str
    needs_clean: bool
    profile: str
    codec: str
    metric: str
    gate: Gate
    rows: tuple[Row, ...]


def defense_order(column: Column) -> tuple[Any, ...]:
    """Sorts columns by countermeasure: none, those of the list `all` in its order, others by name.

    Settings of one countermeasure stand together, those that change test images, too, last.
    """
    name, known = column.defense_name, LISTS["all"]
    place = known.index(name) if name in known else len(known)
    both = column.defense_options.get("apply_to") == "both"
    return (place, name, both, canonical(column.defense_options), column.learned_from)


def place_order(column: Column) -> tuple[Any, ...]:
    """Sorts columns by data and victim, then by countermeasure."""
    return (column.dataset, column.victim, column.task, column.init, column.profile, *defense_order(column))


def columns(store: Store, records: Iterable[Record]) -> list[Column]:
    """Groups records to columns. A pure function of the records and the parquet files beside them."""
    groups: dict[str, list[Record]] = {}
    for record in _once(records):
        cell = record["cell"]
        shared = {k: cell[k] for k in ("dataset", "victim", "defense", "profile", "codec")}
        groups.setdefault(canonical(shared), []).append(record)
    # Variants are told apart on the dataset where they meet.
    meeting: dict[str, list[dict[str, Any]]] = {}
    for group in groups.values():
        specs = meeting.setdefault(canonical(group[0]["cell"]["dataset"]), [])
        specs += [record["cell"]["protector"] for record in group]
    names = {dataset: _labels(specs) for dataset, specs in meeting.items()}
    victims = _victim_labels([group[0]["cell"] for group in groups.values()])
    return [
        _column(
            store,
            group,
            names[canonical(group[0]["cell"]["dataset"])],
            victims[_victim_place(group[0]["cell"])],
        )
        for group in groups.values()
    ]


def _victim_place(cell: dict[str, Any]) -> str:
    return canonical([cell["dataset"], cell["victim"]])


def _victim_labels(cells: Iterable[dict[str, Any]]) -> dict[str, str]:
    """A name for each victim on each dataset; those that would be called alike get the options in which they differ."""
    alike: dict[str, dict[str, dict[str, Any]]] = {}
    for cell in cells:
        victim = cell["victim"]
        shared = [cell["dataset"], *(victim[k] for k in ("name", "task", "init"))]
        alike.setdefault(canonical(shared), {})[_victim_place(cell)] = victim
    return {
        place: f"{victims[place]['name']} ({details})" if details else victims[place]["name"]
        for victims in alike.values()
        for place, details in _differing(victims).items()
    }


def _once(records: Iterable[Record]) -> list[Record]:
    """Of records that differ in their curves alone, the finished one with most points."""
    best: dict[str, Record] = {}
    for record in records:
        cell = {name: value for name, value in record["cell"].items() if name != "curve"}
        cell["clean_ratio"] = _ratio(record)
        key = canonical(cell)
        if key not in best or _completeness(record) > _completeness(best[key]):
            best[key] = record
    return list(best.values())


def _completeness(record: Record) -> tuple[bool, int]:
    return record["status"] == "done", len(record.get("curve", []))


def _labels(protectors: Iterable[dict[str, Any]]) -> dict[str, str]:
    """A row's name for each protector; those of one name get the options in which they differ."""
    alike: dict[str, dict[str, dict[str, Any]]] = {}
    for spec in protectors:
        alike.setdefault(describe_protector(ProtectorSpec(**spec)), {})[canonical(spec)] = spec
    names = {}
    for name, specs in alike.items():
        for key, details in _differing(specs).items():
            names[key] = f"{name} ({details})" if details else name
    return names


def _differing(specs: dict[str, dict[str, Any]]) -> dict[str, str]:
    """For each of several specs the options in which they differ, as text; empty where there is one."""
    flat = {key: _flat(spec) for key, spec in specs.items()}
    fields = sorted({field for values in flat.values() for field in values})
    # An option that an older version did not have tells nothing apart.
    differing = [f for f in fields if len({canonical(v[f]) for v in flat.values() if f in v}) > 1]
    return {
        key: ", ".join(f"{f.rpartition('.')[2]} {_short(values[f])}" for f in differing if f in values)
        for key, values in flat.items()
    }


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    return {k: v for key, item in value.items() for k, v in _flat(item, f"{prefix}.{key}").items()}


def _short(value: Any) -> str:
    if isinstance(value, list):
        return "+".join(map(_short, value)) or "none"
    if isinstance(value, dict):
        return str(value.get("name", value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _column(store: Store, records: list[Record], names: dict[str, str], victim: str) -> Column:
    by_row: dict[str, list[Record]] = {}
    for record in records:
        by_row.setdefault(canonical([record["cell"]["protector"], _ratio(record)]), []).append(record)
    ordered = sorted(by_row.values(), key=lambda rs: _order(rs[0]))
    clean = [r for r in records if _role(r) == "clean" and r["status"] == "done"]
    cell = records[0]["cell"]
    needs, needs_clean = _needs(cell["defense"]["name"])
    finished = [r for r in records if r["status"] == "done"]
    return Column(
        dataset=_dataset_label(cell["dataset"]),
        victim=victim,
        task=cell["victim"]["task"],
        init=cell["victim"]["init"],
        defense=_defense_label(cell["defense"]),
        defense_name=cell["defense"]["name"],
        defense_options=cell["defense"]["options"],
        learned_from=_learned_from(cell["defense"]),
        needs=needs,
        needs_clean=needs_clean,
        profile=cell["profile"],
        codec=cell["codec"],
        metric=finished[0]["scores"]["primary"] if finished else metric_type(cell["victim"]["task"]).primary,
        gate=judge(clean),
        rows=tuple(_row(store, group, clean, ordered, names) for group in ordered),
    )


def _control(record: Record, groups: list[list[Record]]) -> list[Record]:
    """The finished records of random noise with the budget of `record`; none for clean and for itself."""
    spec = record["cell"]["protector"]
    for group in groups:
        other = group[0]["cell"]["protector"]
        independent = other["name"] in CONTROLS and not other["options"].get("tile")
        independent = independent and _ratio(group[0]) == _ratio(record)
        if independent and other["budget"] == spec["budget"] and other != spec and spec["name"] != "none":
            return [r for r in group if r["status"] == "done"]
    return []


def _clean_only(record: Record, groups: list[list[Record]]) -> list[Record]:
    """The finished records of the clean images of a mixture alone; none where nothing is mixed."""
    if _ratio(record) and not _is_unprotected(record):
        for group in groups:
            if _is_unprotected(group[0]) and _ratio(group[0]) == _ratio(record):
                return [r for r in group if r["status"] == "done"]
    return []


def _row(
    store: Store,
    records: list[Record],
    clean: list[Record],
    groups: list[list[Record]],
    names: dict[str, str],
) -> Row:
    control, clean_only = _control(records[0], groups), _clean_only(records[0], groups)
    records = sorted(records, key=lambda r: r["cell"]["seed"])
    done = [r for r in records if r["status"] == "done"]
    role = _role(records[0])
    protections = [r["protection"] for r in done]
    costs = [[c for c in r["cost"].values()] for r in done]
    spec, ratio = records[0]["cell"]["protector"], _ratio(records[0])
    return Row(
        label=describe_row(ProtectorSpec(**spec), ratio, names[canonical(spec)]),
        role=role,
        protector=names[canonical(spec)],
        clean_ratio=ratio,
        score=_estimate(store, done),
        drop=_difference(store, done, clean) if role != "clean" else None,
        beyond=_difference(store, done, control),
        over_clean_only=_difference(store, done, clean_only),
        own_train=_mean(r["scores"]["own_train"][r["scores"]["primary"]] for r in done),
        psnr=_mean(p["psnr"] for p in protections),
        ssim=_mean(p["ssim"] for p in protections),
        linf=(
            max(p["linf_foreground"] for p in protections),
            max(p["linf_background"] for p in protections),
        )
        if protections
        else None,
        noise=next((p["noise"] for p in protections if p.get("noise")), None),
        seeds=tuple(r["cell"]["seed"] for r in done),
        missing={r["cell"]["seed"]: r.get("reason", r["status"]) for r in records if r["status"] != "done"},
        seconds=_mean(sum(c["seconds"] for c in cost) for cost in costs) or 0.0,
        gpu_seconds=_mean(sum(c["gpu_seconds"] for c in cost) for cost in costs) or 0.0,
        curves=tuple(r.get("curve", []) for r in done),
        protected={
            r["stages"]["protect"]: _measured(r["protection"]) for r in done if "protect" in r["stages"]
        },
    )


def _measured(protection: dict[str, Any]) -> tuple[float | None, float | None]:
    """PSNR and SSIM, without the last digits, in which two processors may sum the same images differently."""
    psnr, ssim = (None if v is None else round(v, 6) for v in (protection["psnr"], protection["ssim"]))
    return psnr, ssim


def _estimate(store: Store, records: list[Record]) -> Estimate:
    if not records:
        return Estimate(None, None, None, 0, None, "none")
    metric = metric_type(records[0]["cell"]["victim"]["task"])
    if metric.resampled == metric.primary:
        return bootstrap(_counts(store, records), metric.from_counts)
    return bootstrap_seeds([r["scores"]["val"][metric.primary] for r in records])


def _difference(store: Store, records: list[Record], clean: list[Record]) -> Estimate | None:
    twins = {r["cell"]["seed"]: r for r in clean}
    pairs = [(r, twins[r["cell"]["seed"]]) for r in records if r["cell"]["seed"] in twins]
    if not pairs:
        return None
    protected, partners = [p for p, _ in pairs], [c for _, c in pairs]
    metric = metric_type(records[0]["cell"]["victim"]["task"])
    if metric.resampled == metric.primary:
        return bootstrap_difference(_counts(store, protected), _counts(store, partners), metric.from_counts)
    values = [[r["scores"]["val"][metric.primary] for r in side] for side in (protected, partners)]
    return bootstrap_seeds_difference(*values)


def _counts(store: Store, records: list[Record]) -> Any:
    import pandas

    metric = metric_type(records[0]["cell"]["victim"]["task"])
    tables = [pandas.read_parquet(store.record_folder(r["key"]) / "per_image.parquet") for r in records]
    return align([t.to_dict("records") for t in tables], metric.stack_counts)


def _role(record: Record) -> str:
    if _is_unprotected(record):
        return "control" if _ratio(record) else "clean"
    return "control" if record["cell"]["protector"]["name"] in CONTROLS else "protector"


def _is_unprotected(record: Record) -> bool:
    return record["cell"]["protector"]["name"] == "none"


def _ratio(record: Record) -> float:
    """The share of clean images; records of before there were mixtures do not name it."""
    return record["cell"].get("clean_ratio", 0.0)


def _order(record: Record) -> tuple[float, int, str, int]:
    spec = record["cell"]["protector"]
    rank = {"clean": 0, "control": 1, "protector": 2}[_role(record)]
    return _ratio(record), rank, spec["name"], 0 if spec["budget"]["kind"] == "uniform" else 1


def _dataset_label(dataset: dict[str, Any]) -> str:
    size = dataset["image_size"] or dataset["options"].get("image_size")
    return f"{dataset['name']} {size} px" if size else dataset["name"]


def _defense_label(defense: dict[str, Any]) -> str:
    told = {k: v for k, v in sorted(defense["options"].items()) if v is not None and v is not False}
    options = [f"{k}={v}" for k, v in told.items()]
    if learned_from := _learned_from(defense):
        options.append(f"learned from {learned_from}")
    return f"{defense['name']} ({', '.join(options)})" if options else defense["name"]


def _learned_from(defense: dict[str, Any]) -> str:
    return " and ".join(_dataset_label(dataset) for dataset in defense.get("fit_on", []))


def _needs(name: str) -> tuple[str, bool]:
    try:
        defense = registry.load("defense", name)
    except BenchError:  # its package is not installed here
        return "", False
    return defense.needs(), defense.needs_clean


def _mean(values: Iterable[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None
