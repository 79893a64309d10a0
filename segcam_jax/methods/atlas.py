"""An atlas: what every ablation makes of the output, kept, so that targets are only read off it."""

import dataclasses
import functools
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from segcam_jax import engine
from segcam_jax.engine import Execution
from segcam_jax.engine.atlas import Stored
from segcam_jax.masks import ChannelMasks, WindowMasks
from segcam_jax.methods.ablation import scaled
from segcam_jax.methods.gradient_cams import weighted
from segcam_jax.taps import Split
from segcam_jax.types import Explanation, InputError, wide

Ablated = Literal["channels", "positions"]


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["activation", "output", "rows", "changes", "scale"],
    meta_fields=["split", "masks", "block"],
)
@dataclasses.dataclass(frozen=True, eq=False)
class Atlas:
    """The change of the output, y - y_m, under every ablation m; made by `ablation_atlas`.

    Attributes:
        activation: at the tap, `*space c`.
        output: y, of the unchanged input, `*space k`.
        rows: the ablations that change anything.
        changes: of each of them y - y_m, summed over blocks of positions, its largest value 1,
            `m *blocks k`.
        scale: what `changes` are multiplied by, `m`.
        split: the model.
        masks: all ablations.
        block: extent of a block of output positions along every axis.
    """

    activation: Float[Array, "*space c"]
    output: Float[Array, "*space k"]
    rows: Int[Array, "m"]
    changes: Array
    scale: Float[Array, "m"]
    split: Split
    masks: ChannelMasks | WindowMasks
    block: int

    def drops(self, target: Any) -> Float[Array, "m"]:
        """S - S_m of a target that is linear in the output, one per ablation.

            S(y) = L(y) + constant,    S - S_m = L(y - y_m)

        Args:
            target: a class at a pixel, in a region or the whole image, of logits (of probabilities
                where the output holds them), summed or averaged; or a function `output -> scalar`
                that is linear but for a constant, as a difference of two classes is. In an atlas
                of blocks a region counts each block by the share of it that it covers: exact for
                regions of whole blocks.

        Raises:
            TargetError: if it is not linear, or does not fit the output.
        """
        target = engine.linear_target(target, self.split)
        found = engine.read_changes(self.split, target, self.changes, self.scale, block=self.block)
        return jnp.zeros(len(self.masks), found.dtype).at[self.rows].set(found)

    def explain(self, target: Any, *, relative: bool | None = None) -> Explanation:
        """What `ablation_cam`, or `fast_ablation_cam` where positions are ablated, returns.

        Args:
            target: as in `drops`.
            relative: divide by |S|; None: as these methods do by default.
        """
        drops = self.drops(target)
        score = engine.linear_target(target, self.split)(self.output)
        is_cam = isinstance(self.masks, ChannelMasks)
        falls = scaled(drops, score, relative=is_cam if relative is None else relative)
        if isinstance(self.masks, WindowMasks):
            return Explanation(self.masks.spread(falls), score, None, score - drops, drops)
        found = weighted(wide(self.activation), falls, score)
        return Explanation(found.map, score, falls, score - drops, drops)


def ablation_atlas(
    split: Split,
    params: Any,
    x: Array,
    *,
    ablate: Ablated = "channels",
    block: int = 1,
    dtype: Stored = "float32",
    execution: Execution = Execution(),
) -> Atlas:
    """Ablates once and keeps what becomes of the output: any target is then read off it.

    Takes the time of one study of the whole image, and `m * positions / block^rank * k` numbers, of
    which dead channels take none: 1,024 channels, 256x256, two classes are 512 MiB in float32, and
    64 MiB in float16 with blocks of 2x2.

    Args:
        split: the model, cut at the tap to explain; its output is one array.
        ablate: `"channels"`, as Ablation-CAM, or `"positions"`, one by one, as FastAblationCAM.
        block: output positions are summed over blocks of this extent along every axis.
        dtype: of what is kept: `"float32"`, `"float16"` (each ablation's largest change to 3
            digits) or `"bfloat16"`.
        execution: how the engine runs it; `memory_limit` bounds the atlas too.

    Returns:
        An `Atlas`: `atlas.explain(target)`, `atlas.drops(target)`.

    Raises:
        InputError: if it does not fit the memory (the message says which blocks would), or the
            model returns more than one array.

    Example:
        >>> import jax, jax.numpy as jnp, segcam_jax as segcam
        >>> def model(params, x):
        ...     return segcam.tap(jax.nn.relu(x), "hidden") @ params
        >>> params, x = jnp.ones((3, 5)), jnp.ones((2, 4, 3))
        >>> split = segcam.split(model, "hidden", params, x)
        >>> kept = segcam.methods.ablation_atlas(split, params, x)
        >>> kept.drops(segcam.targets.pixel(0, (1, 2), (2, 4))).tolist()
        [1.0, 1.0, 1.0]
    """
    if ablate not in get_args(Ablated):
        raise InputError(f"ablate={ablate!r}; choose 'channels' or 'positions'")
    if dtype not in get_args(Stored):
        raise InputError(f"dtype={dtype!r}; choose from {', '.join(get_args(Stored))}")
    if block < 1:
        raise InputError(f"block={block}; expected an extent in output positions, at least 1")
    *space, channels = split.activation.shape
    each = (1,) * len(space)
    masks = ChannelMasks(channels) if ablate == "channels" else WindowMasks((*space,), each, each)
    activation, output, rows, changes, scale = engine.output_changes(
        split, params, x, masks, block=block, dtype=dtype, execution=execution
    )
    return Atlas(activation, output, rows, changes, scale, split, masks, block)
