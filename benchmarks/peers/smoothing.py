"""SmoothGrad of one instance as IES does it in PyTorch: one backward pass per voxel and sample."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from benchmarks.peers.explainers import Peer
from benchmarks.studies import CHECKED_VOXELS, CLASS, NOISE

Voxel = tuple[int, ...]


def voxels_of(peer: Peer) -> list[Voxel]:
    """The places of the instance, in row-major order."""
    assert peer.regions is not None
    return [tuple(map(int, place)) for place in torch.nonzero(peer.regions[0])]


def noisy_images(peer: Peer, count: int) -> list[Tensor]:
    """The image under noise of a share of the first channel's range."""
    generator = torch.Generator(peer.x.device).manual_seed(0)
    first = peer.x[:, 0]
    deviation = NOISE * float(first.max() - first.min())
    return [
        peer.x + deviation * torch.randn(peer.x.shape, generator=generator, device=peer.x.device)
        for _ in range(count)
    ]


def largest(peer: Peer, image: Tensor, voxels: Sequence[Voxel]) -> Tensor:
    """Per value of the input, the voxels' gradient of largest magnitude, with its sign."""
    image = image.detach().requires_grad_()
    logits = peer.model(image)[0, CLASS]
    found = torch.zeros_like(image)
    for voxel in voxels:
        image.grad = None
        logits[voxel].backward(retain_graph=True)
        assert image.grad is not None
        found = torch.where(image.grad.abs() > found.abs(), image.grad, found)
    return found


def mean(peer: Peer, image: Tensor) -> Tensor:
    """The gradient of the mean logit of the instance."""
    assert peer.regions is not None
    image = image.detach().requires_grad_()
    logits = peer.model(image)[0, CLASS]
    logits[peer.regions[0]].sum().backward()
    assert image.grad is not None
    return image.grad / peer.regions[0].sum()


def loop(peer: Peer, *, weight_gradients: bool) -> Callable[[int], np.ndarray]:
    """The first gradients of a study, as many in each noise sample.

    Args:
        weight_gradients: whether weights get gradients too, as the source leaves it: its network
            is as it was loaded.
    """
    peer.model.requires_grad_(weight_gradients)
    study = peer.study
    images, voxels = noisy_images(peer, study.samples), voxels_of(peer)

    def run(count: int) -> np.ndarray:
        if study.workload.what == "samples":
            found = [mean(peer, image) for image in images[:count]]
        else:
            each = voxels[: count // study.samples]
            found = [largest(peer, image, each) for image in images]
        return _plain(torch.stack(found).mean(0))

    return run


def forwards(peer: Peer) -> Callable[[], None]:
    """What a study of voxels does once per noise sample: a forward whose graph is kept."""
    images = noisy_images(peer, peer.study.samples)

    def run() -> None:
        for image in images:
            # A copy to the host waits for a GPU.
            float(peer.model(image.requires_grad_())[0, 0].sum().detach())

    return run


def checked(peer: Peer) -> np.ndarray:
    """A small study that every row can compute: few voxels, and no noise."""
    if peer.study.workload.what == "samples":
        return _plain(mean(peer, peer.x))
    return _plain(largest(peer, peer.x, voxels_of(peer)[:CHECKED_VOXELS]))


def _plain(saliency: Tensor) -> np.ndarray:
    """Channels last, as one result."""
    return np.moveaxis(saliency.detach().cpu().numpy(), 1, -1)
