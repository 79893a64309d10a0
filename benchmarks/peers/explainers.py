"""pytorch-grad-cam and captum as they are, and what a person writes by hand in PyTorch.

Each function returns the first `count` results of a study as the other rows do: the fall of the
score under each ablation, or the raw map of each instance. Libraries run unchanged; what they are
asked for is a shorter list of ablations where a row is projected.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.peers.twins import Twin, twin
from benchmarks.studies import CLASS, Study
from segcam_jax import extras

CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


@dataclasses.dataclass(frozen=True)
class Peer:
    """A study in PyTorch.

    Attributes:
        x: its image, `1 c *space`.
        regions: masks of the targets' regions, or None.
        batch: ablations at once, where the code leaves it to its user.
    """

    study: Study
    model: Twin
    x: Tensor
    regions: Tensor | None
    batch: int

    def scores(self, output: Tensor, index: int = 0) -> Tensor:
        """The target of each example of a batch, `n`."""
        values = output[:, CLASS]
        if self.regions is not None:
            values = values * self.regions[index]
        return values.flatten(1).sum(1) if values.ndim > 1 else values

    def masks(self, indices: Sequence[int], activation: Tensor) -> Tensor:
        """The ablation masks of a batch, which broadcast against `n c *space`."""
        _, channels, *space = activation.shape
        sizes = [channels] if self.study.workload.what == "channels" else space
        rows = torch.as_tensor(indices, device=activation.device)
        masks = torch.ones(len(indices), int(np.prod(sizes)), device=activation.device)
        masks[torch.arange(len(indices)), rows] = 0
        if self.study.workload.what == "channels":
            return masks.reshape(len(indices), channels, *[1] * len(space))
        return masks.reshape(len(indices), 1, *space)

    def repeated(self, count: int) -> Tensor:
        """The image in a batch, in its own memory layout."""
        return torch.cat([self.x] * count)

    def batches(self, count: int) -> list[list[int]]:
        """The first ablations in batches."""
        return [
            list(range(first, min(first + self.batch, count)))
            for first in range(0, count, self.batch)
        ]


def peer(study: Study, device: str, *, channels_last: bool, batch: int) -> Peer:
    """Loads a study."""
    image = np.moveaxis(np.asarray(study.x), -1, 0)[None].copy()
    x, model = torch.from_numpy(image).to(device), twin(study.network, study.tap, study.model)
    model = model.to(device)
    if channels_last:
        x = x.to(memory_format=CHANNELS_LAST[x.ndim])
        model = model.to(memory_format=CHANNELS_LAST[x.ndim])
    regions = None if study.regions is None else torch.from_numpy(study.regions).to(device)
    return Peer(study, model, x, regions, batch)


def whole_forward(peer: Peer) -> Callable[[int], Any]:
    """Forwards of the unchanged image, `count` of them in one batch: what sets the rate."""

    def run(count: int) -> np.ndarray:
        with torch.no_grad():
            return peer.scores(peer.model(peer.repeated(count))).cpu().numpy()

    return run


def first_channels() -> tuple[type, type]:
    """pytorch-grad-cam's `AblationLayer` with a `count`, and an `AblationCAM` that keeps `weights`.

    The layer ablates the first `count` channels; the library scores the others as unchanged.
    """
    library = extras.require("pytorch_grad_cam", extra="bench")
    layers = extras.require("pytorch_grad_cam.ablation_layer", extra="bench")

    class First(layers.AblationLayer):
        """Ablates the first channels; the library scores the others as unchanged."""

        count = 0

        def activations_to_be_ablated(self, activations, ratio_channels_to_ablate=1.0):
            super().activations_to_be_ablated(activations, ratio_channels_to_ablate)
            self.indices = self.indices[: self.count]
            return self.indices

    class Recording(library.AblationCAM):
        """Keeps the weights, which the library does not return."""

        def get_cam_weights(self, *arguments, **options):
            self.weights = super().get_cam_weights(*arguments, **options)
            return self.weights

    return First, Recording


def grad_cam_library(peer: Peer) -> Callable[[int], np.ndarray]:
    """pytorch-grad-cam: `AblationCAM` for channels, `GradCAM` in a loop for instances."""
    if peer.study.workload.what == "instances":
        return _grad_cam_loop(peer)
    first, recording = first_channels()
    target = _library_target(peer, 0)

    def run(count: int) -> np.ndarray:
        layer = first()
        layer.count = count
        with torch.no_grad():
            score = float(target(peer.model(peer.x)[0]))
        with recording(peer.model, [peer.model.tapped], ablation_layer=layer) as cam:
            cam(input_tensor=peer.x, targets=[target])
            return score * np.asarray(cam.weights[0, :count], np.float64)

    return run


def _grad_cam_loop(peer: Peer) -> Callable[[int], np.ndarray]:
    library = extras.require("pytorch_grad_cam", extra="bench")

    class Recording(library.GradCAM):
        """Keeps the raw map, which the library rectifies and scales."""

        def get_cam_image(self, *arguments, **options):
            self.raw = super().get_cam_image(*arguments, **options)
            return self.raw

    def run(count: int) -> np.ndarray:
        maps = []
        with Recording(peer.model, [peer.model.tapped]) as cam:
            for index in range(count):
                cam(input_tensor=peer.x, targets=[_library_target(peer, index)])
                maps.append(cam.raw[0])
        return np.stack(maps)

    return run


def _library_target(peer: Peer, index: int) -> Any:
    targets = extras.require("pytorch_grad_cam.utils.model_targets", extra="bench")
    if peer.study.is_classifier:
        return targets.ClassifierOutputTarget(CLASS)
    regions = peer.study.regions
    space = peer.x.shape[2:]
    mask = np.ones(space, bool) if regions is None else regions[index]
    return targets.SemanticSegmentationTarget(CLASS, mask)


def captum(peer: Peer) -> Callable[[int], np.ndarray]:
    """captum's `LayerFeatureAblation` with one group of elements per channel or position."""
    library = extras.require("captum.attr", extra="bench")

    def run(count: int) -> np.ndarray:
        with torch.no_grad():
            activation, _ = peer.model.prefix(peer.x)
        _, channels, *space = activation.shape
        by_channel = peer.study.workload.what == "channels"
        sizes = [channels] if by_channel else space
        shape = [1, channels, *[1] * len(space)] if by_channel else [1, 1, *space]
        # What is not asked for is one more group: an ablation that the others do not have.
        groups = torch.arange(int(np.prod(sizes))).clamp(max=count).reshape(shape)
        ablation = library.LayerFeatureAblation(
            lambda x: peer.scores(peer.model(x)), peer.model.tapped
        )
        with torch.no_grad():
            found = ablation.attribute(
                peer.x, layer_mask=groups.to(peer.x.device), perturbations_per_eval=peer.batch
            )
        place = (slice(None), *[0] * len(space)) if by_channel else (0,)
        return found[0][place].flatten()[:count].cpu().numpy()

    return run


def whole_loop(peer: Peer) -> Callable[[int], np.ndarray]:
    """Whole forwards in batches, the tapped activation multiplied by a mask in a hook."""

    def run(count: int) -> np.ndarray:
        with torch.no_grad():
            score = peer.scores(peer.model(peer.x))
            found = []
            for indices in peer.batches(count):

                def ablate(module, inputs, output, indices=indices):
                    return output * peer.masks(indices, output)

                with _hook(peer.model.tapped, ablate):
                    found.append(peer.scores(peer.model(peer.repeated(len(indices)))))
            return (score - torch.cat(found)).cpu().numpy()

    return run


@contextlib.contextmanager
def _hook(module: nn.Module, hook: Callable) -> Iterator[None]:
    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def cached(peer: Peer) -> Callable[[int], np.ndarray]:
    """The part before the tap once, the rest in batches; for instances one backward each."""
    if peer.study.workload.what == "instances":
        return _cached_gradients(peer)

    def run(count: int) -> np.ndarray:
        with torch.no_grad():
            activation, known = peer.model.prefix(peer.x)
            score = peer.scores(peer.model.suffix(activation, known))
            found = [
                peer.scores(peer.model.suffix(activation * peer.masks(indices, activation), known))
                for indices in peer.batches(count)
            ]
            return (score - torch.cat(found)).cpu().numpy()

    return run


def _cached_gradients(peer: Peer) -> Callable[[int], np.ndarray]:
    peer.model.requires_grad_(False)

    def run(count: int) -> np.ndarray:
        with torch.no_grad():
            activation, known = peer.model.prefix(peer.x)
        activation = activation.requires_grad_()
        output = peer.model.suffix(activation, known)
        maps = []
        for index in range(count):
            score = peer.scores(output, index).sum()
            (gradient,) = torch.autograd.grad(score, activation, retain_graph=True)
            weights = gradient.mean(tuple(range(2, gradient.ndim)), keepdim=True)
            maps.append((weights * activation.detach()).sum(1)[0].cpu().numpy())
        return np.stack(maps)

    return run
