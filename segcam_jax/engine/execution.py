"""How a study is run; nothing here changes its result but for rounding."""

import dataclasses
import numbers
from typing import Literal, get_args

from jax.sharding import Mesh

from segcam_jax.engine import devices
from segcam_jax.types import InputError

Precision = Literal["float32", "tf32", "bfloat16"]


@dataclasses.dataclass(frozen=True)
class Execution:
    """Settings of the engine.

    Attributes:
        chunk_size: evaluations at once; planned from memory if None.
        memory_limit: bytes that a study's temporaries may take, all that the compiled program
            holds besides parameters, input and result; chunks are halved until it does. Inside of
            a caller's own `jit` it bounds an estimate of a chunk. None: cache-sized chunks on CPU,
            what is free elsewhere. Chunks are halved as well where memory runs out.
        windows: compute only what a target's region can see.
        difference: propagate the change that an ablation makes, so that the fall of the score is
            exact relative to itself; and compute only what changes: around a window of positions,
            and in the first linear operation the one ablated channel. Gradients leave out what the
            activation does not change. False: run the whole ablated activation and subtract
            scores; differentiate the network as it is written.
        closed_form: where the score is linear in the activation, take all ablations from one
            gradient.
        skip_dead: do not run ablations of what is zero already.
        lowering: rewrite equations that XLA runs slowly on a CPU; None does so on CPUs only.
        mesh: devices that share the work, as `device_mesh` makes it: the ablations of a study are
            dealt over its axis "ablations", the images of `explain_batch` over "images". None: one
            device.
        precision: of the convolutions and dot products after the tap. `"float32"`: all bits of
            their operands, also on accelerators, which would round them by default; what precedes
            the tap runs as the model is written. `"tf32"` rounds the operands to 10 bits where the
            device has tensorfloat32, `"bfloat16"` to 7 bits everywhere; both accumulate in
            float32, and the score, sums and results stay float32. `explain_plan(...,
            measure=True)` shows the error.
    """

    chunk_size: int | None = None
    memory_limit: int | None = None
    windows: bool = True
    difference: bool = True
    closed_form: bool = True
    skip_dead: bool = True
    lowering: bool | None = None
    mesh: Mesh | None = None
    precision: Precision = "float32"

    def __post_init__(self):
        for name, unit in (("chunk_size", "evaluations"), ("memory_limit", "bytes")):
            given = getattr(self, name)
            if given is not None and (not isinstance(given, numbers.Integral) or given < 1):
                raise InputError(
                    f"{name}={given!r}; expected a whole number of {unit}, at least 1, or None"
                )
        if self.mesh is not None:
            devices.check_mesh(self.mesh)
        if self.precision not in get_args(Precision):
            raise InputError(
                f"precision={self.precision!r}; choose from {', '.join(get_args(Precision))}"
            )


NAIVE = Execution(
    windows=False, difference=False, closed_form=False, skip_dead=False, lowering=False
)
