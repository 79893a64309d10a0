"""torchax, and what is set while a module runs on it."""

import contextlib
import functools
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import jax

from segcam_jax import faults
from segcam_jax.adapters import torch_operators
from segcam_jax.adapters.torch_storage import LostWriteError, storage
from segcam_jax.extras import require
from segcam_jax.types import InputError, MissingExtraError

EXTRA = "torchax"
_FITS = "torch 2.11 to 2.14"
# What a trace sets in torch holds for the process.
_TRACING = threading.RLock()


@functools.cache
def load_torchax() -> Any:
    """torchax, also where its release is older than torch's.

    Its release 0.0.13 has rules for operators that later ones of torch lack: overloads of named
    tensors (2.13), `cholesky` and `qr` (2.14).
    """
    torch = require("torch", extra=EXTRA)
    kinds: Any = (torch._ops._OpNamespace, torch._ops.OpOverloadPacket)
    plain = [kind.__getattr__ for kind in kinds]
    for kind in kinds:
        kind.__getattr__ = _tolerant(kind.__getattr__)
    fast = torch.backends.mha.get_fastpath_enabled()
    try:
        torchax = require("torchax", extra=EXTRA)
        torch_operators.mend(torchax)
    except MissingExtraError:
        raise
    except (AttributeError, ImportError, RuntimeError) as error:
        raise InputError(
            f"torchax does not work with torch {torch.__version__} ({faults.words_of(error)}); it "
            f'needs {_FITS}. Run: pip install "segcam-jax[{EXTRA}]"'
        ) from error
    finally:
        for kind, each in zip(kinds, plain, strict=True):
            kind.__getattr__ = each
        torch.backends.mha.set_fastpath_enabled(fast)
    return torchax


class _Lacking:
    """An operator that torch lacks, which no module can ask for, and its overloads."""

    def __getattr__(self, key: str) -> "_Lacking":
        if key.startswith("__"):
            raise AttributeError(key)
        return _Lacking()


def _tolerant(plain: Callable[[Any, str], Any]) -> Callable[[Any, str], Any]:
    def found(self: Any, key: str) -> Any:
        try:
            return plain(self, key)
        except AttributeError:
            # torch asks what there is of other namespaces while it defines theirs.
            if key.startswith("__") or vars(self).get("name", "aten") != "aten":
                raise
            return _Lacking()

    return found


@contextlib.contextmanager
def on_jax() -> Iterator[Any]:
    """Runs torch's functions on JAX, new tensors too, and tells in one line what does not run.

    The random numbers of torchax are the same each time, and are put back. Gives the watch over
    tensors that share their memory.
    """
    torch, torchax = require("torch", extra=EXTRA), load_torchax()
    torch_operators.mend_torchvision(torchax)
    env = torchax.default_env()
    numbers = env.override_property(prng=jax.random.key(0))
    with _told(torchax), _quietly(), numbers, env, torch.device("jax"), storage()() as watch:
        yield watch


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Runs torch's modules on JAX, as they are written, by torch's rules and JAX's widths.

    Fused attention takes tensors of torch alone. Shapes and dtypes promote as in torch, however
    strict JAX is set to be. Sizes and indices are int64 in torch and int32 in JAX, of which nothing
    is to tell. What is set is set for the process, so one thread traces at a time.
    """
    import torch

    with (
        _TRACING,
        warnings.catch_warnings(),
        jax.numpy_rank_promotion("allow"),
        jax.numpy_dtype_promotion("standard"),
    ):
        warnings.filterwarnings("ignore", message="Explicitly requested dtype")
        fast = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)


@contextlib.contextmanager
def _told(torchax: Any) -> Iterator[None]:
    """What torchax cannot do is told in one line."""
    try:
        yield
    except (torchax.tensor.OperatorNotFound, LostWriteError) as error:
        where = next(iter(getattr(error, "__notes__", ())), "in the module")
        if isinstance(error, LostWriteError):
            place = faults.place_of(error)
            raise InputError(f"{where}: {f'{place}: ' if place else ''}{error}") from error
        raise InputError(
            f"{where}: torchax {torchax.__version__} lacks an operator of torch ({error}); use "
            "other operators, or define it with torchax.default_env().override_op_definition"
        ) from error
