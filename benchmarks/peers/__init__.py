"""What people use today, in PyTorch: the same networks with the same weights, explained by peers.

pip install -e ".[bench]"
"""

import functools
import os
from types import ModuleType
from typing import Any

import jax

from segcam_jax import extras

_KEPT: list[Any] = []


@functools.cache
def torch(threads: int | None = None) -> ModuleType:
    """Imports PyTorch and makes torchvision importable beside a CPU build.

    Args:
        threads: how many it may use; None leaves it to PyTorch.
    """
    # pytorch-grad-cam shows a bar that has no switch of its own.
    os.environ.setdefault("TQDM_DISABLE", "1")
    module = extras.require("torch", extra="bench")
    if threads is not None:
        module.set_num_threads(threads)
    try:
        import torchvision  # noqa: F401
    except ImportError:
        pass
    except RuntimeError:
        # The wheels on PyPI are built for CUDA: two operators lack their schemas on a CPU build.
        library = module.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _KEPT.append(library)
    return module


def device(torch: Any) -> str:
    """Where PyTorch runs: where JAX does."""
    return "cuda" if torch.cuda.is_available() and jax.default_backend() == "gpu" else "cpu"
