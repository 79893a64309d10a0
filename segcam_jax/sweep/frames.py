"""The frame of a network of volumes: what its weights say, what is asked for, what is not known."""

from collections.abc import Sequence

from segcam_jax.data import nifti
from segcam_jax.data.frames import Frame
from segcam_jax.data.scans import ScanFiles
from segcam_jax.data.volume import orientation
from segcam_jax.networks.network import Network


def known_frame(network: Network, asked: Frame) -> Frame:
    """What is asked for, and else what the weights say."""
    known = Frame.of(network.model.metadata)
    return Frame(asked.orientation or known.orientation, asked.spacing or known.spacing)


def frame_notes(network: Network, frame: Frame, files: Sequence[ScanFiles]) -> list[str]:
    """What has to be said of how scans lie: nothing is known, or something else was asked for.

    Args:
        network: the network.
        frame: the one that its scans are brought to, of `known_frame`.
        files: the scans.
    """
    known, notes, name = Frame.of(network.model.metadata), [], network.spec.words
    if frame.orientation is None:
        affines = [nifti.read_grid(each.files[0])[1] for each in files]
        found = ", ".join(sorted({orientation(affine) for affine in affines}))
        notes.append(
            f"{name!r} does not say on which orientation it was trained; scans are given "
            f"to it as they lie in their files ({found}): say it by --orientation, such as RAS"
        )
    if frame.spacing is None:
        notes.append(
            f"{name!r} does not say on voxels of what size it was trained; those of the "
            "scans are not checked: say it by --spacing, in mm"
        )
    for what in ("orientation", "spacing"):
        said, taken = getattr(known, what), getattr(frame, what)
        if said not in (None, taken):
            notes.append(f"{name!r} was trained on {what} {said}; {taken} is asked for")
    return notes
