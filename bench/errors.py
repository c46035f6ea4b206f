"""Every failure that a user can cause or mend, each with the exit code of the command that meets it.

A message says what is wrong, where, and how to mend it, in one line. The command line prints it without a
traceback (`--debug` shows one). Anything that is not a `BenchError` is a defect of ours.
"""

from __future__ import annotations

EXIT_DONE = 0
EXIT_CELL_FAILED = 1
EXIT_USAGE = 2
EXIT_ENVIRONMENT = 3
EXIT_INTERRUPTED = 130


class BenchError(Exception):
    """Base of all expected failures.

    Attributes:
        exit_code: What the command returns when this error ends it.
        kind: The word that a failed cell's record carries: `failed: <kind>`.
    """

    exit_code = EXIT_CELL_FAILED
    kind = "error"


class UsageError(BenchError):
    """The user asked for something that does not exist or does not fit together."""

    exit_code = EXIT_USAGE
    kind = "usage"


class UnknownName(UsageError):
    """A protector, victim, defense, dataset or option that nobody registered."""

    kind = "unknown_name"


class SpecError(UsageError):
    """A specification that cannot be run as written."""

    kind = "spec"


class DatasetError(BenchError):
    """A dataset folder that is missing, malformed or holds an unreadable file."""

    exit_code = EXIT_ENVIRONMENT
    kind = "dataset"


class EnvironmentFault(BenchError):
    """The machine lacks something: CUDA, disk space, a writable folder, a package."""

    exit_code = EXIT_ENVIRONMENT
    kind = "environment"


class DiskFull(EnvironmentFault):
    """No space is left where the store lies."""

    kind = "disk_full"


class PluginUnavailable(EnvironmentFault):
    """A registered plugin whose module does not import."""

    kind = "plugin_unavailable"


class BudgetViolation(BenchError):
    """A protected file differs from its source by more than its budget allows."""

    kind = "budget_violation"


class ContractViolation(BenchError):
    """A plugin broke its contract: other size, other dtype, NaN, mutated input."""

    kind = "contract_violation"


class TrainingDiverged(BenchError):
    """The loss of a training became NaN or infinite."""

    kind = "nan"


class StageBusy(BenchError):
    """Another process works on the stage; it will be waited for."""

    kind = "busy"


class ArtifactCorrupt(BenchError):
    """A stored stage does not hold what its manifest says."""

    kind = "corrupt"


class Interrupted(BenchError):
    """The user or the scheduler stopped the run; what is finished stays finished."""

    exit_code = EXIT_INTERRUPTED
    kind = "interrupted"
