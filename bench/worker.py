"""One stage in one process: `python -m bench.worker STORE KIND KEY`.

The runner writes `request.json` into the stage's partial folder and starts this. Progress goes to standard
output as JSON lines; everything else that a library prints goes to `log.txt` in the folder. A crash, an
out-of-memory kill or a segmentation fault costs this one stage.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any, TextIO

from bench.errors import EXIT_CELL_FAILED, EXIT_DONE, EXIT_INTERRUPTED, BenchError, StageBusy
from bench.files import NO_SPACE
from bench.store import FAILURE_FILE, REQUEST_FILE, Store

LOG_FILE = "log.txt"
PR_SET_PDEATHSIG = 1
REPORT_INTERVAL = 0.5


def main(arguments: list[str]) -> int:
    """Runs the stage that `arguments` name and returns the exit code."""
    store, kind, key = Store(Path(arguments[0])), arguments[1], arguments[2]
    folder = store.partial_folder(kind, key)
    die_with_parent()
    signal.signal(signal.SIGTERM, interrupt)
    events = _take_over_output(folder / LOG_FILE)
    try:
        with store.lock(kind, key) as mine:
            if not mine:
                raise StageBusy(f"another process works on {kind} {key}")
            if not store.is_done(kind, key):
                _run(store, kind, key, folder, events)
        return EXIT_DONE
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BaseException as error:
        write_failure(folder, error)
        return EXIT_CELL_FAILED


def die_with_parent() -> None:
    """Asks the kernel to end this process when its parent ends, however it ends (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _run(store: Store, kind: str, key: str, folder: Path, events: TextIO) -> None:
    from bench.stages import StageContext, run_stage

    request = json.loads((folder / REQUEST_FILE).read_text(encoding="utf-8"))
    if request["heavy"]:
        prepare_torch(request["device"], request["threads"])
    started, clock = time.time(), time.perf_counter()
    devices = _devices(kind, request)
    if len(devices) > 1:
        from bench.spread import run_spread

        summary = run_spread(store, kind, key, devices, reporter(events))
    else:
        summary = run_stage(
            StageContext.of_request(request, store, kind, key, request["device"], reporter(events))
        )
    seconds = time.perf_counter() - clock
    from bench.machine import describe_machine, package_versions

    info = {
        "kind": kind,
        "key": key,
        "identity": request["identity"],
        "inputs": request["inputs"],
        "summary": summary,
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "cost": _cost(seconds, devices),
        "device": request["device"],
        "threads": request["threads"],
        "machine": describe_machine(),
        "versions": package_versions(),
    }
    (folder / REQUEST_FILE).unlink(missing_ok=True)
    shutil.rmtree(folder / "work", ignore_errors=True)
    store.finish(kind, key, info)


def prepare_torch(device: str, threads: int) -> None:
    """Sets up torch in this process.

    Raises:
        EnvironmentFault: There is no CUDA, and `device` is a CUDA device.
    """
    import torch

    from bench.errors import EnvironmentFault

    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)  # arithmetic on denormal numbers is many times slower on most CPUs
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise EnvironmentFault(f"device {device} was asked for and CUDA is not available: use --device cpu")


def _devices(kind: str, request: dict[str, Any]) -> list[str]:
    """The devices of a stage: several for a fit that may be shared and was given several."""
    devices: list[str] = request.get("devices", [])
    if kind == "fit" and len(devices) > 1:
        from bench.stages.fit import learner_of

        learner = learner_of(request["identity"])
        if learner.shares_fit and learner.trains:
            return devices
    return [request["device"]]


def _cost(seconds: float, devices: list[str]) -> dict[str, float | None]:
    """Wall, CPU and GPU seconds and peak memory (GiB) of this process and its children.

    The GPU memory of a stage in several processes is not known here.
    """
    usage = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    gpu_memory = None
    on_gpu = devices[0].startswith("cuda")
    if on_gpu and len(devices) == 1:
        import torch

        gpu_memory = round(torch.cuda.max_memory_allocated() / 2**30, 3)
    return {
        "seconds": round(seconds, 3),
        "cpu_seconds": round(sum(u.ru_utime + u.ru_stime for u in usage), 3),
        "gpu_seconds": round(seconds * len(devices), 3) if on_gpu else 0.0,
        "peak_memory_gib": round(max(u.ru_maxrss for u in usage) / 2**20, 3),
        "peak_gpu_memory_gib": gpu_memory,
    }


def reporter(events: TextIO) -> Any:
    """A `report(done, total, note)` that writes JSON lines to `events`, not too many of them."""
    last = [0.0]

    def report(done: int, total: int, note: str) -> None:
        now = time.monotonic()
        if now - last[0] < REPORT_INTERVAL and done < total:
            return
        last[0] = now
        events.write(json.dumps({"done": done, "total": total, "note": note}) + "\n")
        events.flush()

    return report


def _take_over_output(log: Path) -> TextIO:
    """Keeps standard output for events and sends everything else that is printed to `log`."""
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    descriptor = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o666)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    return events


def interrupt(number: int, frame: Any) -> None:
    """A signal handler: the first signal is a `KeyboardInterrupt`."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a second one ends the process at once
    raise KeyboardInterrupt


def write_failure(folder: Path, error: BaseException) -> None:
    """Writes why a stage failed into its folder, and the traceback to the log."""
    kind, message = classify(error)
    failure = {"kind": kind, "message": message, "traceback": traceback.format_exc()}
    traceback.print_exc()
    try:
        (folder / FAILURE_FILE).write_text(json.dumps(failure), encoding="utf-8")
    except OSError:  # the disk may be what failed: the runner then goes by the exit code
        sys.stderr.write("the failure could not be written\n")


def classify(error: BaseException) -> tuple[str, str]:
    """The failure kind and one line for any exception."""
    if isinstance(error, BenchError):
        return error.kind, str(error)
    text = " ".join(str(error).split())[:500]
    name = type(error).__name__
    if name == "OutOfMemoryError":
        return "oom", f"the GPU has too little memory: {text}"
    if isinstance(error, MemoryError):
        return "oom", f"the machine has too little memory: {text or name}"
    if isinstance(error, OSError) and error.errno in NO_SPACE:
        return "disk_full", f"no space left on the disk: {text}"
    return "crash", f"{name}: {text}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
