"""A stand-in for `mmcv._ext`, mmcv's compiled extension, on torchvision's operators.

`mmcv-lite` ships every Python file of `mmcv.ops` and lacks only this one extension, whose build needs a
compiler, nvcc and an hour. `install` puts a module of that name where `import mmcv.ops` looks for it. The
registries, class names, configs and state-dict keys stay mmcv's own, and a compiled mmcv that is installed
is used as it is.

The operators that mmdet's and mmseg's models call are here, forward and backward, on CPU and CUDA. They keep
the signatures of the compiled ones, which fill tensors that `mmcv.ops` allocated. Every other name that
`mmcv.ops` asks for exists too, and raises NotImplementedError when it is called.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from bench.errors import EnvironmentFault

EXTENSION = "mmcv._ext"

_OPERATORS = {
    "boxes": ("nms", "softnms", "nms_match"),
    "regions": ("roi_align_forward", "roi_align_backward", "roi_pool_forward", "roi_pool_backward"),
    "deformable": (
        "deform_conv_forward",
        "deform_conv_backward_input",
        "deform_conv_backward_parameters",
        "modulated_deform_conv_forward",
        "modulated_deform_conv_backward",
    ),
    "attention": ("ms_deform_attn_forward", "ms_deform_attn_backward"),
    "focal": ("sigmoid_focal_loss_forward", "sigmoid_focal_loss_backward"),
}
"""The operators that exist, by the submodule that holds them."""


class StandIn(ModuleType):
    """A module that answers every unknown name with a function that says what is missing."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)

        def missing(*args: Any, **kwargs: Any) -> Any:
            raise NotImplementedError(
                f"mmcv operator {name!r} is not among those that bench provides; "
                "install a compiled mmcv==2.1.0 in place of mmcv-lite to use it"
            )

        return missing

    def get_compiler_version(self) -> str:
        """What `mmcv.ops.get_compiler_version` reports."""
        return "none (torchvision stand-in)"

    def get_compiling_cuda_version(self) -> str:
        """The CUDA version that the operators were compiled with, which is torch's."""
        import torch

        return torch.version.cuda or "none"


def install() -> bool:
    """Makes `import mmcv.ops` work. Call it before anything imports mmcv.ops, mmdet.models or mmseg.models.

    Calling it again changes nothing.

    Returns:
        True if a compiled extension is in use, False if the stand-in is.

    Raises:
        EnvironmentFault: Neither mmcv nor mmcv-lite is installed.
    """
    if EXTENSION not in sys.modules:
        try:
            import mmcv
        except ModuleNotFoundError as error:
            if error.name != "mmcv":
                raise
            raise EnvironmentFault("mmcv is not installed: pip install mmcv-lite==2.1.0") from error
        if not _load_compiled():
            sys.modules[EXTENSION] = mmcv._ext = _stand_in()
    return not isinstance(sys.modules[EXTENSION], StandIn)


def _load_compiled() -> bool:
    try:
        importlib.import_module(EXTENSION)
    except ModuleNotFoundError as error:
        if error.name != EXTENSION:
            raise
        return False
    except ImportError as error:
        warnings.warn(
            f"mmcv's compiled extension does not load ({error}); using torchvision's operators", stacklevel=3
        )
        return False
    return True


def _stand_in() -> StandIn:
    module = StandIn(EXTENSION, __doc__)
    module.__spec__ = ModuleSpec(EXTENSION, None)
    for subject, names in _OPERATORS.items():
        source = importlib.import_module(f"{__name__}.{subject}")
        for name in names:
            setattr(module, name, getattr(source, name))
    return module
