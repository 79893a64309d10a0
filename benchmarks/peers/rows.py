"""Rows of the peers. PyTorch is imported when a row is made ready, so that others run without."""

import dataclasses
from collections.abc import Callable, Iterator

import jax
import numpy as np

from benchmarks import cost, peers, timing
from benchmarks.rows import Ready, Row, Unavailable
from benchmarks.studies import Study
from benchmarks.workloads import (
    CAPTUM,
    PGC,
    SMOOTHED,
    TORCH_CACHED,
    TORCH_IES,
    TORCH_INPUT,
    TORCH_LOOP,
)
from segcam_jax.types import MissingExtraError

# pytorch-grad-cam's own default; captum and a loop by hand leave it to their user.
_LIBRARY_BATCH = 32
_BATCH = 8


@dataclasses.dataclass(frozen=True)
class Layout:
    """The memory layout that PyTorch runs a network in, the faster of two, and how fast.

    Attributes:
        channels_last: whether it is channels last.
        seconds: of one forward, per layout.
        rate: operations per second in the faster one.
    """

    channels_last: bool
    seconds: dict[str, float]
    rate: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class PeerRow(Row):
    """One way to compute a study in PyTorch.

    Attributes:
        make: name of the function in `explainers`.
        layout: found by `layout`.
    """

    make: str
    layout: Layout
    group: str = "peer"

    def flops_each(self, study: Study) -> float:
        """Operations per result, as XLA counts the same work."""
        caches = self.make == "cached"
        split = study.split
        if caches:
            activation, carry = jax.eval_shape(split.encode, study.params, study.x)
            forward = cost.flops(split.decode, activation, carry)
        else:
            forward = cost.flops(study.fn, study.params, study.x)
        if study.workload.what != "instances":
            return forward
        # A backward costs about two forwards where weights get gradients, else about one.
        return forward if caches else 3 * forward

    def ready(self, study: Study, count: int) -> Ready:
        """Loads the twin; nothing is compiled."""
        import torch

        from benchmarks.peers import explainers

        device = peers.device(torch)
        last = self.layout.channels_last
        peer = explainers.peer(study, device, channels_last=last, batch=self.step)
        run: Callable[[int], np.ndarray] = getattr(explainers, self.make)(peer)
        memory = timing.TorchMemory(torch) if device == "cuda" else timing.ResidentMemory()
        facts = {
            "setting": f"channels {'last' if last else 'first'}"
            + (f", batch {self.step}" if study.workload.what != "instances" else ""),
            "layout_seconds": self.layout.seconds,
        }
        forward = explainers.whole_forward(peer)
        # Whole forwards before the first result: by the libraries that ablate at most two.
        ablates = study.workload.what != "instances"
        times = 1 if self.make == "cached" else 2 if ablates else 0
        return Ready(
            lambda: run(count), count, facts, lambda: [forward(1) for _ in range(times)], memory
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SmoothRow(Row):
    """SmoothGrad of one instance as IES does it.

    Attributes:
        weight_gradients: whether weights get gradients too, as in the source.
        layout: found by `layout`.
    """

    weight_gradients: bool
    layout: Layout
    group: str = "peer"

    def flops_each(self, study: Study) -> float:
        """A backward costs one forward for the input, and another for weights."""
        passes = 1 + self.weight_gradients + (study.workload.what == "samples")
        return passes * cost.flops(study.fn, study.params, study.x)

    def ready(self, study: Study, count: int) -> Ready:
        """Loads the twin; nothing is compiled."""
        import torch

        from benchmarks.peers import explainers, smoothing

        device, last = peers.device(torch), self.layout.channels_last
        peer = explainers.peer(study, device, channels_last=last, batch=1)
        run = smoothing.loop(peer, weight_gradients=self.weight_gradients)
        memory = timing.TorchMemory(torch) if device == "cuda" else timing.ResidentMemory()
        setting = f"channels {'last' if last else 'first'}"
        return Ready(
            lambda: run(count),
            count,
            {"setting": setting, "layout_seconds": self.layout.seconds},
            smoothing.forwards(peer) if study.workload.what == "voxels" else None,
            memory,
            lambda: smoothing.checked(peer),
        )


def layout(study: Study, threads: int | None) -> Layout:
    """Times whole forwards in both layouts.

    Raises:
        Unavailable: if PyTorch, or MONAI where its network is measured, is not installed, or if
            PyTorch cannot use the device that JAX uses.
    """
    try:
        torch = peers.torch(threads)
    except MissingExtraError as problem:
        raise Unavailable(str(problem)) from None
    if jax.default_backend() == "gpu" and not torch.cuda.is_available():
        raise Unavailable("this PyTorch has no CUDA; rows on a CPU would say nothing here")
    from benchmarks.peers import explainers

    seconds = {}
    for name, last in (("channels first", False), ("channels last", True)):
        try:
            peer = explainers.peer(study, peers.device(torch), channels_last=last, batch=_BATCH)
        except MissingExtraError as problem:
            raise Unavailable(str(problem)) from None
        run = explainers.whole_forward(peer)
        run(1)
        # A batch may prefer another layout than a single image does.
        seconds[name] = timing.seconds(lambda run=run: run(_PROBE)) / _PROBE
    best = min(seconds, key=lambda name: seconds[name])
    flops = cost.flops(study.fn, study.params, study.x)
    return Layout(best == "channels last", seconds, flops / seconds[best])


_PROBE = 4


def peer_rows(study: Study, layout: Layout) -> Iterator[Row]:
    """The peers that can do a study."""
    workload = study.workload
    if workload.what in SMOOTHED:
        step = study.samples if workload.what == "voxels" else 1
        for name, weights in ((TORCH_IES, True), (TORCH_INPUT, False)):
            yield SmoothRow(name=name, weight_gradients=weights, layout=layout, step=step)
        return
    in_2d = len(study.x.shape) == 3
    make = [(TORCH_CACHED, "cached", _BATCH, 1)]
    if workload.what == "positions":
        make.insert(0, (TORCH_LOOP, "whole_loop", _BATCH, 1))
    if workload.what != "instances":
        make.insert(0, (CAPTUM, "captum", _BATCH, 1))
    # pytorch-grad-cam ablates channels only, in 2D only.
    if workload.what != "positions" and in_2d:
        batch = _LIBRARY_BATCH if workload.what == "channels" else 2
        make.insert(0, (PGC, "grad_cam_library", batch, 2))
    for name, function, batch, weight in make:
        step = min(batch, study.total)
        yield PeerRow(name=name, make=function, layout=layout, step=step, weight=weight)


def missing(name: str) -> str | None:
    """Why a library that a row needs cannot be imported, or None."""
    import importlib

    modules = {PGC: "pytorch_grad_cam", CAPTUM: "captum.attr"}
    try:
        peers.torch()
        importlib.import_module(modules.get(name, "torch"))
    except ImportError as problem:
        return f'{problem}; run: pip install "segcam-jax[bench]"'
    return None
