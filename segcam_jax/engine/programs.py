"""Programs that fit the memory: compiled, looked at, and compiled again in smaller chunks."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from segcam_jax._jaxpr import signatures
from segcam_jax._jaxpr.recent import Recent
from segcam_jax.engine import devices, memory, record
from segcam_jax.engine.execution import Execution
from segcam_jax.engine.functions import holds_tracers
from segcam_jax.taps import Split
from segcam_jax.types import InputError

# Each program takes about a hundred memory maps, of which a process has 65,530 by default.
MOST_PROGRAMS = 256


@dataclasses.dataclass(frozen=True)
class Program:
    """A kernel for one split, options and shapes, in chunks that fit.

    Attributes:
        halvings: how often planned chunks were halved.
        executable: compiled ahead of time, where the memory is limited; else None, for `jax.jit`
            compiles on the first call.
    """

    halvings: int
    executable: jax.stages.Compiled | None

    @property
    def temporaries(self) -> int | None:
        """Bytes that it takes besides its inputs and results, where it is compiled."""
        return None if self.executable is None else temporary_bytes(self.executable)

    @property
    def arguments(self) -> int | None:
        """Bytes of its inputs, where it is compiled."""
        if self.executable is None:
            return None
        return getattr(self.executable.memory_analysis(), "argument_size_in_bytes", 0)


class Anew(tuple):
    """Static arguments that may compute something else in the next call: no program is kept."""


def _is_anew(static: Any) -> bool:
    return isinstance(static, Anew) or (isinstance(static, tuple) and any(map(_is_anew, static)))


class _Kept:
    """A kernel jitted for itself: with the last reference to it all that it compiled is freed.

    Attributes:
        lasts: whether it may outlast a caller's trace, as it holds no tracers of it.
    """

    def __init__(self, function: Callable, *, lasts: bool = True):
        self.function = function
        self.lasts = lasts
        self.program: Program | None = None


_PROGRAMS: Recent[_Kept] = Recent(MOST_PROGRAMS)


def kept(kernel: Callable, static: tuple, inputs: tuple) -> Callable:
    """`kernel(*static, ...)` jitted, kept while it is among the last `MOST_PROGRAMS` used.

    Programs differ by kernel, static arguments, and structure, shapes and dtypes of the inputs.
    One that holds tracers of a caller's is not kept: it is of their trace.
    """
    return _kept(kernel, static, inputs).function


def _kept(kernel: Callable, static: tuple, inputs: tuple) -> _Kept:
    if holds_tracers(static, inputs):
        return _passing(kernel, static, jax.tree.structure(inputs))
    if _is_anew(static):
        return _Kept(jax.jit(functools.partial(kernel, *static)))
    key = (kernel, static, *_signature(inputs))
    return _PROGRAMS.get(key, lambda: _Kept(jax.jit(functools.partial(kernel, *static))))


def _passing(kernel: Callable, static: tuple, tree: Any) -> _Kept:
    """A kernel for one trace, of leaves: structures of what is jitted are kept by JAX."""
    run = jax.jit(lambda *leaves: kernel(*static, *jax.tree.unflatten(tree, leaves)))
    return _Kept(lambda *inputs: run(*jax.tree.leaves(inputs)), lasts=False)


class Programs:
    """The programs of a kernel.

    Args:
        kernel: `(split, static, halvings, *inputs)`, the first three static.
    """

    def __init__(self, kernel: Callable):
        self._kernel = kernel

    def run(self, split: Split, static: Any, inputs: tuple, execution: Execution) -> Any:
        """Calls the kernel; where memory runs out, again with half the chunks.

        Inside of a caller's `jit`, `vmap` or `grad` the kernel is traced along as it is planned.

        Raises:
            InputError: if one evaluation at a time is too much.
        """
        if execution.mesh is None:
            inputs = devices.off_explicit_axes(inputs)
        known = _kept(self._kernel, (split, static, 0), inputs)
        traced = any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(inputs))
        if traced or not known.lasts:
            if record.is_recording():  # A trace that is kept tells nothing again.
                return self._kernel(split, static, 0, *jax.tree.map(jnp.asarray, inputs))
            return known.function(*inputs)
        proven, halvings, exhausted = known.program, 0, None
        while True:
            try:
                program = proven or self.fitted(split, static, inputs, execution, halvings)
                result = self._call(program, known, split, static, inputs)
                if proven is None:
                    # A device says that its memory is exhausted when it runs, which may be later.
                    jax.block_until_ready(result)
                    known.program = program
                return result
            except jax.errors.JaxRuntimeError as error:
                # Several processes must go on alike, which they cannot agree on here.
                if "RESOURCE_EXHAUSTED" not in str(error) or jax.process_count() > 1:
                    raise
                halvings = 1 + (halvings if proven is None else proven.halvings)
                proven, exhausted = None, error
            except memory.NoSmallerChunk:
                raise InputError(
                    "the device is out of memory with one evaluation at a time; explain a smaller "
                    "image, or a tap nearer to the output"
                ) from exhausted

    def fitted(
        self, split: Split, static: Any, inputs: tuple, execution: Execution, halvings: int = 0
    ) -> Program:
        """The program with the largest chunks whose temporaries keep to the limit, if there is one.

        Raises:
            InputError: if one evaluation at a time takes more.
        """
        limit = memory.limit(execution)
        if limit is None:
            return Program(halvings, None)
        needed = None
        while needed is None or needed > limit:
            try:
                function = kept(self._kernel, (split, static, halvings), inputs)
                lowered = function.lower(*inputs)
            except memory.NoSmallerChunk:
                if needed is None:
                    raise
                given = f"the device has {limit} bytes free"
                if execution.memory_limit is not None:
                    given = f"memory_limit={limit} bytes"
                raise InputError(
                    f"{given}; one evaluation alone needs about {needed} for the study's "
                    "temporaries"
                ) from None
            executable = lowered.compile()
            needed, used = temporary_bytes(executable), halvings
            halvings += 1
        return Program(used, executable)

    def compiled(self, split: Split, static: Any, inputs: tuple, execution: Execution) -> Program:
        """The program of `fitted`, compiled ahead of time in any case."""
        program = self.fitted(split, static, inputs, execution)
        if program.executable is None:
            function = kept(self._kernel, (split, static, program.halvings), inputs)
            program = dataclasses.replace(program, executable=function.lower(*inputs).compile())
        return program

    def _call(
        self, program: Program, known: _Kept, split: Split, static: Any, inputs: tuple
    ) -> Any:
        function = program.executable or known.function
        if program.executable is None and program.halvings:
            function = kept(self._kernel, (split, static, program.halvings), inputs)
        return function(*inputs)


def temporary_bytes(executable: jax.stages.Compiled) -> int:
    """Bytes that a program takes besides its inputs and results; 0 where XLA does not say."""
    return getattr(executable.memory_analysis(), "temp_size_in_bytes", 0)


def _signature(inputs: tuple) -> tuple:
    """What a compiled program depends on besides its static arguments."""
    leaves, tree = jax.tree.flatten(inputs)
    return tree, tuple(map(jax.typeof, leaves)), tuple(map(_place, leaves)), signatures.settings()


def _place(leaf: Any) -> jax.sharding.Sharding | None:
    """Where an array has to stay; None where it goes to the default device, as numpy's do."""
    if isinstance(leaf, Tracer) or not getattr(leaf, "committed", False):
        return None
    return leaf.sharding
