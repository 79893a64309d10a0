"""`segcam convert`: a weights file of another library becomes one of ours."""

from collections.abc import Sequence
from typing import Any

import jax

from segcam_jax.cli import commands, console
from segcam_jax.data.frames import AXES, Frame
from segcam_jax.data.labels import read_labels
from segcam_jax.types import InputError, counted


def convert(command: commands.Convert) -> None:
    """Reads, maps, checks and writes; a file that does not fit leaves nothing behind.

    Raises:
        InputError: naming what does not fit.
    """
    from segcam_jax import models

    out = command.out
    if out.exists() and not command.overwrite:
        raise InputError(f"{str(out)!r} exists; choose another file, or give --overwrite")
    labels = None if command.labels is None else read_labels(command.labels)
    frame = Frame(command.orientation, command.spacing or None)
    model = models.convert(
        command.source,
        command.model,
        out,
        layout=command.layout,
        normalisation=command.normalisation,
        labels=labels,
        frame=frame,
        outputs=command.outputs,
        multi_label=command.multi_label,
        bgr=command.bgr,
        **({"strides": command.strides} if command.strides else {}),
    )
    parameters = sum(leaf.size for leaf in jax.tree.leaves(models.stored.parameters(model)))
    config = model.config
    rows = [
        ("model", command.model),
        ("parameters", f"{parameters:,}"),
        ("image channels", config.in_channels),
        ("classes", f"{config.classes}{', not exclusive' if command.multi_label else ''}"),
    ]
    rows += [("outputs", command.outputs)] if command.outputs else []
    assumed: Sequence[str] = ()
    if hasattr(config, "normalisation"):
        rows.append(("normalisation", config.normalisation))
    else:
        shape, assumed = _told(model, command)
        rows.append(("shape", shape))
        rows += [("" if n else "assumed", words) for n, words in enumerate(assumed)]
        if config.ndim == AXES:
            rows += [(name, frame.metadata.get(name, "unknown")) for name in _TRAINED_ON]
    rows.append(("written", out))
    console.table(f"Converted {command.source}", ("", "what"), rows)
    if assumed:
        console.note(
            "segcam assumes what the file does not state; a network that differs from it has the "
            "same tensors, but other outputs"
        )


_TRAINED_ON = ("orientation", "spacing")


def _told(model: Any, command: commands.Convert) -> tuple[str, Sequence[str]]:
    """What the weights say of a segmentation network, in one line, and what they do not tell."""
    from segcam_jax.models.monai_unet.weights import monai_assumed
    from segcam_jax.models.unet import UNet
    from segcam_jax.models.unet.weights import torch_assumed
    from segcam_jax.weights import foreign

    config = model.config
    if isinstance(model, UNet):
        shape = f"{config.ndim}D, {counted(config.depth, 'pooling')}, first width {config.width}"
        of_torch = config.upsample == "transposed"
        return shape, torch_assumed(foreign.read(command.source)) if of_torch else ()
    channels = "-".join(map(str, config.channels))
    strides = "-".join(str(each).strip("()") for each in config.strides)
    shape = (
        f"{config.ndim}D, channels {channels}, strides {strides}, "
        f"{counted(config.num_res_units, 'residual unit')}, {config.norm} norm"
    )
    return shape, monai_assumed(config, strides=not command.strides)
