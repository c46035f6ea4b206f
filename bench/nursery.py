"""Forks workers from a process that has imported the libraries already.

Importing torch, mmengine, mmdet and mmseg costs a worker several seconds of CPU time, more than a small
stage's own work. The nursery imports them once per run and forks a worker per stage: still one process, one
process group and one crash domain each. It is used on the CPU only: a CUDA context does not survive a fork.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import IO, Any

from bench.worker import die_with_parent
from bench.worker import main as run_worker

PRELOADED = ("torch", "torchvision", "mmengine.runner", "pandas", "safetensors.torch")
PRELOADED_AFTER_OPERATORS = (
    "mmseg.models",
    "mmdet.models",
    "segmentation_models_pytorch",
    "segment_anything",
)
MESSAGE_BYTES = 1 << 16


class NurseryProcess:
    """A forked worker, with the part of `subprocess.Popen` that the executor uses.

    Attributes:
        pid: Process id; also the id of its process group.
        stdout: What the worker says.
        returncode: Exit code, negative for a signal; None while it runs.
    """

    def __init__(self, pid: int, stdout: IO[str]) -> None:
        self.pid = pid
        self.stdout = stdout
        self.returncode: int | None = None
        self._ended = threading.Event()

    def wait(self, timeout: float | None = None) -> int:
        """Waits for the end.

        Raises:
            subprocess.TimeoutExpired: It still runs after `timeout` seconds.
        """
        if not self._ended.wait(timeout):
            raise subprocess.TimeoutExpired("bench.worker", timeout or 0)
        assert self.returncode is not None
        return self.returncode

    def end(self, code: int) -> None:
        """Notes that the process has ended."""
        self.returncode = code
        self._ended.set()


class Nursery:
    """The runner's side: starts the nursery process, asks it for workers, hears of their ends."""

    def __init__(self, environment: dict[str, str], on_ready: Callable[[], None]) -> None:
        """Starts importing. `on_ready` is called, in another thread, when workers can be forked, or never will be."""
        self.on_ready = on_ready
        self.ready = False
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bench.nursery", str(theirs.fileno())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            env=environment,
            start_new_session=True,
        )
        theirs.close()
        self.children: dict[int, NurseryProcess] = {}
        self.started: list[int] = []
        self.news = threading.Condition()
        self.alive = True
        threading.Thread(target=self._listen, daemon=True).start()

    def start(self, arguments: list[str]) -> NurseryProcess | None:
        """Forks a worker; None if the nursery is no more, so that the caller starts one by itself."""
        ours, theirs = os.pipe()
        try:
            with self.news:
                socket.send_fds(self.socket, [json.dumps(arguments).encode()], [theirs])
                self.news.wait_for(lambda: self.started or not self.alive)
                if not self.started:
                    raise ConnectionError
                pid = self.started.pop()
                child = NurseryProcess(pid, os.fdopen(ours, encoding="utf-8", errors="replace"))
                self.children[pid] = child
                self.news.notify_all()  # its end may be waiting to be noted
                return child
        except OSError:
            os.close(ours)
            return None
        finally:
            os.close(theirs)

    def close(self) -> None:
        """Ends the nursery; workers that still run end with it."""
        self.socket.close()
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()

    def _listen(self) -> None:
        """Hears what the nursery says; runs in a thread of its own."""
        while True:
            try:
                message = self.socket.recv(MESSAGE_BYTES)
            except OSError:
                message = b""
            if not message:
                break
            said: dict[str, Any] = json.loads(message)
            if "ready" in said:
                self.ready = True
                self.on_ready()
                continue
            with self.news:
                if "started" in said:
                    self.started.append(said["started"])
                    self.news.notify_all()
                else:
                    self.news.wait_for(lambda pid=said["ended"]: pid in self.children, timeout=5)
                    self.children.pop(said["ended"]).end(said["code"])
        with self.news:
            self.alive = False
            self.ready = True  # nothing is worth waiting for any more: `start` returns None
            for child in self.children.values():
                child.end(-signal.SIGKILL)
            self.news.notify_all()
        self.on_ready()


def serve(connection: socket.socket) -> None:
    """The nursery's side: imports the libraries, then forks a worker per request until the runner is gone."""
    die_with_parent()
    _preload()
    connection.send(json.dumps({"ready": True}).encode())
    wake_reader, wake_writer = os.pipe()
    os.set_blocking(wake_writer, False)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(wake_writer, warn_on_full_buffer=False)
    while True:
        ready, _, _ = select.select([connection, wake_reader], [], [])
        if wake_reader in ready:
            os.read(wake_reader, 4096)
            _reap(connection)
        if connection in ready:
            message, descriptors, _, _ = socket.recv_fds(connection, MESSAGE_BYTES, 1)
            if not message:
                return
            _fork(connection, json.loads(message), descriptors[0])


def _fork(connection: socket.socket, arguments: list[str], output: int) -> None:
    pid = os.fork()
    if pid:
        os.close(output)
        connection.send(json.dumps({"started": pid}).encode())
        return
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        connection.close()
        os.setsid()
        os.dup2(output, 1)
        os.close(output)
        code = run_worker(arguments)
    finally:
        # Not sys.exit: the nursery's own clean-up is not the worker's business.
        os._exit(code)


def _reap(connection: socket.socket) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        connection.send(json.dumps({"ended": pid, "code": os.waitstatus_to_exitcode(status)}).encode())


def _preload() -> None:
    from bench.mmcv_ext import install

    # A library that does not import is the business of the worker that needs it, where the error is explained.
    for name in PRELOADED:
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    with contextlib.suppress(Exception):
        install()
    for name in PRELOADED_AFTER_OPERATORS:
        with contextlib.suppress(Exception):
            importlib.import_module(name)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
