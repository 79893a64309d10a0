"""How the figures of commands show a map: by a profile, or with its sign.

ReLU, the first step of most profiles, hides what speaks against the target. The rule, wherever no
profile is asked for (`auto`): a map of which ReLU would hide more than half,

    hidden = sum |negative values| / sum |values| > 1/2        over the image, without padding

is drawn with its sign, by the profile `signed`, in diverging colours about 0; else by the profile
`segcam_jax`. Maps that share a figure are all drawn alike: one such map is enough. Maps that do not
depend on the target (Eigen-CAM) keep the profile, for their negative values speak against nothing.
"""

import dataclasses
from collections.abc import Iterable

import numpy as np
from jaxtyping import Array, Float

from segcam_jax.engine import compiled_function
from segcam_jax.heatmap import cropped_heatmap, find_profile, hidden_share, over_image
from segcam_jax.methods import METHODS
from segcam_jax.reports.words import percent

AUTO = "auto"
PROFILE, SIGNED = "segcam_jax", "signed"
# Half, beyond rounding: maps that sum to 0 stay as they are.
_DOMINANT = 0.501
# The share of pixels that is not clipped in maps of single pixels.
CLIP = 0.99


# One program for all maps of a resolution, where the steps one by one are twenty small ones.
_compiled_heatmap = compiled_function(cropped_heatmap)


@dataclasses.dataclass(frozen=True, eq=False)
class Display:
    """A map as a figure shows it.

    Attributes:
        hidden: the share of the raw map that ReLU hides.
        zero: why the heatmap is zero; empty if it is not.
    """

    method: str
    heat: Float[np.ndarray, "h w"]
    profile: str
    hidden: float
    zero: str = ""

    @property
    def note(self) -> str:
        """A few words for the panel of a figure of many maps."""
        if self.zero or self.profile != SIGNED or not self.hidden:
            return self.zero
        return f"{percent(self.hidden)} negative"

    def caption(self, label: str, chosen: str) -> str:
        """What the figure of this map alone says of how it is drawn."""
        profile = find_profile(self.profile)
        words = f"profile {self.profile}: {profile.about.removesuffix('; the default')}"
        if not METHODS[self.method].uses_target:
            return f"Drawn with the {words}. This method does not use the class."
        if chosen == AUTO and self.profile == SIGNED:
            most = "most" if self.hidden < 1 else "all"
            return (
                f"ReLU would hide {percent(self.hidden)} of this map: {most} of it speaks against "
                f"{label}. So the map is drawn with its sign: positive for {label}, negative "
                f"against it ({words})."
            )
        if profile.signed or not self.hidden:
            return f"Drawn by the {words}."
        return (
            f"Drawn with the {words}. ReLU hides {percent(self.hidden)} of the map, which speaks "
            f"against {label}."
        )


def check(profile: str) -> None:
    """Raises `InputError` if there is no such profile, and it is not `auto`."""
    if profile != AUTO:
        find_profile(profile)


def is_dominated(hidden: float) -> bool:
    """Whether ReLU would hide most of a map, of which it hides this share."""
    return hidden > _DOMINANT


def is_signed(profile: str, hidden: Iterable[tuple[str, float]]) -> bool:
    """Whether a figure shows the sign of its maps, where the profile does not say.

    Args:
        hidden: method and `hidden_share` of each map of the figure.
    """
    return profile == AUTO and any(
        METHODS[method].uses_target and is_dominated(share) for method, share in hidden
    )


def profile_of(profile: str, method: str, *, signed: bool) -> str:
    """The profile that a map is drawn by, in a figure that is `signed` or not."""
    if profile != AUTO:
        return profile
    return SIGNED if signed and METHODS[method].uses_target else PROFILE


def display(
    raw: Float[np.ndarray, "*cells"],
    method: str,
    *,
    profile: str,
    signed: bool,
    padded: tuple[int, ...],
    extent: tuple[int, ...],
    smoothing: float = 0.0,
    weights: Float[Array, "c"] | None = None,
) -> Display:
    """Makes what a figure shows of a raw map.

    Args:
        raw: the map, over the padded image.
        signed: whether the figure shows the signs of its maps, as `is_signed` says.
        padded: extents that the network was given.
        weights: of the channels, if the method gives any.
    """
    drawn = profile_of(profile, method, signed=signed)
    heat = np.asarray(
        _compiled_heatmap(raw, padded=padded, extent=extent, profile=drawn, smoothing=smoothing)
    )
    shown = over_image(raw, extent, padded)
    zero = "" if heat.any() else why_zero(shown, method, weights)
    return Display(method, heat, drawn, hidden_share(shown), zero)


def why_zero(
    raw: Float[np.ndarray, "*cells"], method: str, weights: Float[Array, "c"] | None = None
) -> str:
    """Why a heatmap is zero everywhere, in words."""
    if raw.any():
        return "zero map: no evidence is positive, all of it speaks against the class"
    known = METHODS[method]
    if not known.uses_target:
        return "zero map: the activation is zero, or the same everywhere"
    if known.ablates:
        return "zero map: no ablation at this tap changes the score"
    if not known.signed:
        return "zero map: no positive gradient reaches this tap"
    if weights is None:
        return "zero map: no gradient reaches this tap, or its activation is zero"
    if np.asarray(weights).any():
        return "zero map: the activation is zero where the image lies"
    return "zero map: no gradient reaches this tap"


def in_words(shown: Iterable[Display], *, chosen: str, signed: bool) -> str:
    """What a figure of several maps says of how they are drawn."""
    shown = tuple(shown)
    clipping = about_clipping(each.method for each in shown)
    return _profiles_in_words(shown, chosen=chosen, signed=signed) + clipping


def about_clipping(methods: Iterable[str]) -> str:
    """What `clipped` means above a map, as a sentence to follow others; empty if none is."""
    if not any(METHODS[method].pixelwise for method in methods):
        return ""
    return f" Clipped: the strongest {100 * (1 - CLIP):.0f} % of the pixels share one colour."


def _profiles_in_words(shown: Iterable[Display], *, chosen: str, signed: bool) -> str:
    by_profile: dict[str, dict[str, None]] = {}
    most = 0.0
    for each in shown:
        by_profile.setdefault(each.profile, {})[each.method] = None
        most = max(most, each.hidden if METHODS[each.method].uses_target else 0.0)
    if not (chosen == AUTO and signed):
        (name,) = by_profile
        if find_profile(name).signed or not most:
            return f"Drawn with the profile {name}."
        return f"Drawn with the profile {name}: ReLU hides up to {percent(most)} of a map."
    blind = ", ".join(METHODS[name].title for name in by_profile.get(PROFILE, ()))
    besides = f" {blind}: profile {PROFILE}; the class does not change the map." if blind else ""
    return (
        f"ReLU would hide negative values, up to {percent(most)} of a map. So maps are drawn with "
        f"their sign: positive for the class, negative against it (profile {SIGNED}).{besides}"
    )
