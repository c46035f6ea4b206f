"""What a store holds, in lines."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from bench.errors import ArtifactCorrupt, EnvironmentFault
from bench.records import read_record
from bench.store import Store

PARTIAL = ".partial"
KINDS = ("data", "fit", "protect", "train", "evaluate")


def status_lines(root: Path) -> list[str]:
    """One line per kind of stage, running and interrupted ones by name, then the records by status.

    Raises:
        EnvironmentFault: There is no store.
    """
    store = Store(root)
    if not (root / "stages").is_dir() and not (root / "records").is_dir():
        raise EnvironmentFault(f"{root} is no store: run `bench run` first, or name the store with --store")
    lines = []
    for kind in KINDS:
        folder = root / "stages" / kind
        names = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
        done = [n for n in names if not n.endswith(PARTIAL) and store.is_done(kind, n)]
        states = {n.removesuffix(PARTIAL): "" for n in names if n.endswith(PARTIAL)}
        for key in states:
            failure = store.failure(kind, key)
            with store.lock(kind, key) as free:
                if not free:
                    states[key] = "running"
                else:
                    states[key] = (
                        f"failed: {failure['kind']}: {failure['message']}" if failure else "interrupted"
                    )
        counts = Counter(state.split(":")[0] for state in states.values())
        extra = "".join(f", {count} {state}" for state, count in sorted(counts.items()))
        lines.append(f"{kind:<9} {len(done)} done{extra}")
        lines += [f"  {key} {state}" for key, state in states.items()]
    statuses: Counter[str] = Counter()
    for key in store.record_keys():
        try:
            statuses[read_record(store, key)["status"]] += 1
        except ArtifactCorrupt as error:
            statuses["corrupt"] += 1
            lines.append(f"  {error}")
    total = sum(statuses.values())
    lines.append(f"records   {total}" + "".join(f", {n} {s}" for s, n in sorted(statuses.items())))
    return lines
