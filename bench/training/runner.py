"""mmengine's Runner without its files, logs and checkpoint reader, and a loop that starts anywhere."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from mmengine.logging import MMLogger
from mmengine.registry import LOOPS
from mmengine.runner import IterBasedTrainLoop, Runner

from bench.errors import BenchError
from bench.training.checkpoint import restore

_numbers = itertools.count()


@LOOPS.register_module()
class DrawTrainLoop(IterBasedTrainLoop):
    """Goes on from iteration i without loading the batches of the first i iterations again.

    The sampler starts where the training does, so there is nothing to skip.
    """

    def run(self) -> Any:
        """Trains to the end and returns the model.

        Raises:
            BenchError: What a loading process met.
        """
        self.runner.call_hook("before_train")
        self.runner.call_hook("before_train_epoch")
        while self._iter < self._max_iters:
            self.runner.model.train()
            batch = next(self.dataloader_iterator)
            if isinstance(batch, BenchError):
                raise batch
            self.run_iter(batch)
        self.runner.call_hook("after_train_epoch")
        self.runner.call_hook("after_train")
        return self.runner.model


class QuietRunner(Runner):
    """A Runner that leaves nothing on disk, on the terminal or in the process's settings.

    Args:
        model: A built and initialised model on its device.
        work_dir: An existing folder; nothing is written there.
        checkpoint: What `read_checkpoint` returned; the training goes on from there.
        **settings: As for `Runner`.
    """

    def __init__(
        self, model: Any, work_dir: Path, checkpoint: dict[str, Any] | None = None, **settings: Any
    ) -> None:
        self._checkpoint = checkpoint
        super().__init__(
            model,
            str(work_dir),
            # mmengine keeps loggers and message hubs by this name for the life of the process.
            experiment_name=f"bench-{next(_numbers)}",
            visualizer={"type": "Visualizer", "vis_backends": []},
            **settings,
        )

    def setup_env(self, env_cfg: dict) -> None:
        """Sets what the other methods read; Runner's would change start methods, threads and limits."""
        self._rank, self._world_size = 0, 1
        # The log folder is work_dir / timestamp: with no timestamp, no folder is made.
        self._timestamp = ""

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:
        """A logger that writes errors to the terminal and nothing to a file."""
        return MMLogger.get_instance(self.experiment_name, log_level="ERROR")

    def wrap_model(self, model_wrapper_cfg: Any, model: Any) -> Any:
        """The model as it is: Runner's would move it to CUDA wherever there is one."""
        return model

    def load_or_resume(self) -> None:
        """Restores the checkpoint. Called when optimizer and schedulers are built."""
        if self._checkpoint is not None:
            restore(self._checkpoint, self)
            self._train_loop._iter = self._checkpoint["progress"].iteration

    def dump_config(self) -> None:
        """Nothing: the record holds the configuration, without this machine's paths."""

    def _log_env(self, env_cfg: dict) -> None:
        """Nothing: the record holds the environment. Runner's starts a compiler to ask its version."""

    def _init_model_weights(self) -> None:
        """Nothing: the model comes initialised."""
