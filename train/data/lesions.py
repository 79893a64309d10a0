"""Brains with planted lesions: volumes of two modalities, of which every lesion is known.

A case is a template brain, deformed, mirrored, seen in two modalities with a bias field, noise and
a scale of its own, in which blobs are planted:

    kind       where                      FLAIR     T1             is a lesion
    LESION     white matter               brighter  a little darker    yes
    T1_ONLY    white matter               as it was     darker         no
    FLAIR_ONLY grey matter, fluid         brighter  as it was          no

So FLAIR carries the information: with the place it tells every lesion, while T1 is dark in lesions
and darker still in what is none. A network should read FLAIR first, and an explanation of it should
say so. The T1 is the template's; the FLAIR is made of it: dark fluid, grey matter brighter than
white.

A case is a pure function of the template, the configuration and its index: nothing else is
remembered, cases can be read in any order and by any number of workers.

    cases = LesionCases(mni152(), LesionConfig(split="test"))
    case = cases[0]
    case.image             # float32 d h w 2, FLAIR and T1, 0 outside the brain
    case.lesions           # int32 d h w, 0 or the number of a lesion
    scans.zscore(case.image)  # what a network is given
"""

import dataclasses
from collections.abc import Iterator
from typing import Literal, cast

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import ndimage

from segcam_jax.data.samples.lesions import (
    CLASSES as CLASSES,
    FLAIR_ONLY as FLAIR_ONLY,
    LESION as LESION,
    MODALITIES as MODALITIES,
    T1_ONLY as T1_ONLY,
)
from segcam_jax.types import InputError
from train.data.brain_template import Template

# Cases of a split, if the configuration names no number.
CASES = {"train": 10_000, "test": 100}
# What random numbers are for; each purpose has its own stream, so that none disturbs another.
_ANATOMY, _PLANTS, _ACQUISITION = range(3)
# Intensities of fluid, grey and white matter in FLAIR, white matter 1, and of air and full white.
_FLAIR = (0.1, 0.3, 1.2, 1.0, 0.97)
_ATTEMPTS = 20  # to find a place for a blob
_LEAST = np.float32(0.01)  # intensity in the brain, so that 0 is outside


@dataclasses.dataclass(frozen=True)
class LesionConfig:
    """What determines the cases; pairs are bounds of a uniform draw.

    Attributes:
        split: `"train"` and `"test"` never share a case.
        cases: how many; None takes the split's own number.
        lesions: blobs of each kind in a case.
        t1_only: the same.
        flair_only: the same.
        voxels: of a blob; its logarithm is uniform.
        flair_contrast: a lesion's brightness above white matter, as a share of white matter.
        t1_contrast: a lesion's darkness, likewise.
        t1_only_contrast: a T1 distractor's darkness.
        flair_only_contrast: a FLAIR distractor's brightness.
        noise: standard deviation, as a share of white matter.
        bias_field: largest exponent of the smooth factor on intensities.
        deformation: standard deviation of the displacement of the template, voxels.
    """

    split: Literal["train", "test"] = "train"
    seed: int = 0
    cases: int | None = None
    lesions: tuple[int, int] = (5, 15)
    t1_only: tuple[int, int] = (3, 9)
    flair_only: tuple[int, int] = (3, 9)
    voxels: tuple[int, int] = (10, 600)
    flair_contrast: tuple[float, float] = (0.15, 0.6)
    t1_contrast: tuple[float, float] = (0.03, 0.15)
    t1_only_contrast: tuple[float, float] = (0.1, 0.3)
    flair_only_contrast: tuple[float, float] = (0.15, 0.6)
    noise: tuple[float, float] = (0.02, 0.06)
    bias_field: tuple[float, float] = (0.0, 0.2)
    deformation: float = 1.2

    def __post_init__(self):
        if self.split not in CASES:
            raise InputError(f"`split` is {self.split!r}; choose from {', '.join(CASES)}")
        if self.cases is not None and self.cases < 1:
            raise InputError(f"`cases` is {self.cases}; give at least 1")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, tuple) and not (len(value) == 2 and 0 <= value[0] <= value[1]):
                raise InputError(f"`{field.name}` is {value}; expected two bounds, 0 or more")
        if self.voxels[0] < 1:
            raise InputError(f"`voxels` is {self.voxels}; a blob has at least 1")


@dataclasses.dataclass(frozen=True)
class Plant:
    """A planted blob.

    Attributes:
        kind: `LESION`, `T1_ONLY` or `FLAIR_ONLY`.
        flair: what it adds to FLAIR, white matter being 1.
        t1: what it adds to T1.
    """

    kind: int
    voxels: int
    flair: float
    t1: float


@dataclasses.dataclass(frozen=True, eq=False)
class LesionCase:
    """A case; image, lesions and kind are as `BundledCase` has them.

    Attributes:
        plants: the blobs; lesions first, in the order of their numbers.
    """

    image: Float[np.ndarray, "d h w 2"]
    lesions: Int[np.ndarray, "d h w"]
    kind: Int[np.ndarray, "d h w"]
    plants: tuple[Plant, ...]


class LesionCases:
    """Cases by index; a random-access source as `grain` expects it."""

    def __init__(self, template: Template, config: LesionConfig):
        self.template, self.config = template, config

    def __len__(self) -> int:
        """The number of cases."""
        return self.config.cases or CASES[self.config.split]

    def __repr__(self) -> str:
        """Names template and configuration: `grain` compares it when it restores an iterator."""
        return f"LesionCases({self.template.name}, {self.config})"

    def __getitem__(self, index: int) -> LesionCase:
        """Returns case `index`, 0 to `len(self) - 1`."""
        if not 0 <= index < len(self):
            raise IndexError(f"case {index} does not exist; there are {len(self)}")
        t1 = _deformed(self.template.t1, self._rng(_ANATOMY, index), self.config.deformation)
        rng = self._rng(_PLANTS, index)
        fluid, grey, white = self.template.levels
        brain = t1 > 0.5 * fluid
        in_white = ndimage.binary_erosion(t1 > (grey + 2 * white) / 3)
        flair = np.interp(t1, (0, fluid, grey, white, 1.1 * white), _FLAIR).astype(np.float32)
        seen = np.stack([flair, t1], axis=-1)
        free = {LESION: in_white, T1_ONLY: in_white, FLAIR_ONLY: brain & (t1 < grey)}
        lesions, kind = np.zeros(t1.shape, np.int32), np.zeros(t1.shape, np.int32)
        plants = []
        for place, mask, plant in self._blobs(rng, free):
            kind[place][mask] = plant.kind
            if plant.kind == LESION:
                lesions[place][mask] = len(plants) + 1
            plants.append(plant)
            # Blurred: a blob's rim fills its voxels in part.
            soft = ndimage.gaussian_filter(mask.astype(np.float32), 0.5)[..., None]
            seen[place] += soft * np.array([plant.flair, plant.t1], np.float32)
        image = self._acquired(self._rng(_ACQUISITION, index), seen, brain)
        return LesionCase(image, lesions, kind, tuple(plants))

    def _rng(self, purpose: int, index: int) -> np.random.Generator:
        split = list(CASES).index(self.config.split)
        return np.random.default_rng((self.config.seed, split, purpose, index))

    def _blobs(
        self, rng: np.random.Generator, free: dict[int, Bool[np.ndarray, "d h w"]]
    ) -> Iterator[tuple[tuple[slice, ...], Bool[np.ndarray, "n n n"], Plant]]:
        """Boxes, masks in them and what is planted there; no blob touches another."""
        config = self.config
        counts = {LESION: config.lesions, T1_ONLY: config.t1_only, FLAIR_ONLY: config.flair_only}
        taken = np.zeros(free[LESION].shape, bool)
        for kind, (fewest, most) in counts.items():
            for _ in range(rng.integers(fewest, most + 1)):
                found = _blob(rng, free[kind] & ~taken, config.voxels)
                flair, t1 = self._contrasts(rng, kind)
                if found is None:
                    continue
                place, mask = found
                taken[place] |= ndimage.binary_dilation(mask, np.ones((3, 3, 3)), iterations=2)
                yield place, mask, Plant(kind, int(mask.sum()), flair, t1)

    def _contrasts(self, rng: np.random.Generator, kind: int) -> tuple[float, float]:
        config = self.config
        drawn = rng.random(2)
        bounds = {
            LESION: (config.flair_contrast, config.t1_contrast),
            T1_ONLY: ((0, 0), config.t1_only_contrast),
            FLAIR_ONLY: (config.flair_only_contrast, (0, 0)),
        }[kind]
        bright, dark = (
            low + share * (high - low) for share, (low, high) in zip(drawn, bounds, strict=True)
        )
        return float(bright), -float(dark)

    def _acquired(
        self,
        rng: np.random.Generator,
        seen: Float[np.ndarray, "d h w 2"],
        brain: Bool[np.ndarray, "d h w"],
    ) -> Float[np.ndarray, "d h w 2"]:
        """What a scanner makes of it: contrast, bias field, noise and scale of each modality."""
        image = np.empty(seen.shape, np.float32)
        for channel in range(seen.shape[-1]):
            gamma, scale = np.exp(rng.uniform(-1, 1, 2) * (0.15, 0.5)).astype(np.float32)
            field = _smooth(rng, brain.shape, 3)
            field *= np.float32(rng.uniform(*self.config.bias_field)) / np.abs(field).max()
            noise = rng.standard_normal(brain.shape, np.float32) * np.float32(
                rng.uniform(*self.config.noise)
            )
            values = np.maximum(seen[..., channel], _LEAST) ** gamma
            image[..., channel] = scale * np.maximum(values * np.exp(field) + noise, _LEAST)
        image[~brain] = 0
        return image


def _smooth(
    rng: np.random.Generator, shape: tuple[int, ...], waves: int
) -> Float[np.ndarray, "d h w"]:
    """A random sum of the lowest cosines along all axes, without the constant."""
    amplitudes = rng.standard_normal((waves, waves, waves))
    amplitudes[0, 0, 0] = 0
    bases = [
        np.cos(np.pi * np.arange(waves) * (np.arange(side)[:, None] + 0.5) / side) for side in shape
    ]
    return np.einsum("abc,da,hb,wc->dhw", amplitudes, *bases, optimize=True).astype(np.float32)


def _deformed(
    t1: Float[np.ndarray, "d h w"], rng: np.random.Generator, deviation: float
) -> Float[np.ndarray, "d h w"]:
    """The template, mirrored by chance, moved about by smooth displacements."""
    if rng.random() < 0.5:
        t1 = t1[::-1]
    places = np.indices(t1.shape, dtype=np.float32)
    for axis in range(3):
        shift = _smooth(rng, t1.shape, 5)
        places[axis] += deviation * shift / shift.std()
    return ndimage.map_coordinates(t1, places, order=1)


def _blob(
    rng: np.random.Generator, free: Bool[np.ndarray, "d h w"], voxels: tuple[int, int]
) -> tuple[tuple[slice, ...], Bool[np.ndarray, "n n n"]] | None:
    """A connected blob in free voxels, as a box and a mask in it; None if none was found."""
    centres = np.flatnonzero(free)
    if not centres.size:
        return None
    for _ in range(_ATTEMPTS):
        wanted = round(float(np.exp(rng.uniform(*np.log(voxels)))))
        field = _blob_field(rng, wanted)
        reach = field.shape[0] // 2
        centre = np.array(np.unravel_index(rng.choice(centres), free.shape))
        low = np.maximum(centre - reach, 0)
        high = np.minimum(centre + reach + 1, free.shape)
        place = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        shift = reach - centre
        inner = tuple(slice(a, b) for a, b in zip(low + shift, high + shift, strict=True))
        values = np.where(free[place], field[inner], -np.inf)
        if np.isfinite(values).sum() < wanted:
            continue
        mask = values >= np.partition(values, -wanted, axis=None)[-wanted]
        parts, _ = cast(tuple[np.ndarray, int], ndimage.label(mask))
        mask = parts == parts[tuple(centre - low)]
        if mask.sum() >= max(voxels[0], wanted // 2) and mask[tuple(centre - low)]:
            return place, mask
    return None


def _blob_field(rng: np.random.Generator, voxels: int) -> Float[np.ndarray, "n n n"]:
    """Falls from the middle of a cube: a turned ellipsoid with smooth dents."""
    radius = (3 * voxels / (4 * np.pi)) ** (1 / 3)
    reach = int(np.ceil(2 * radius)) + 3
    side = np.arange(-reach, reach + 1) / radius
    points = np.stack(np.meshgrid(side, side, side, indexing="ij"), axis=-1)
    turn = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    distance = np.linalg.norm(points @ (turn * np.exp(rng.normal(0, 0.25, 3))), axis=-1)
    dents = ndimage.gaussian_filter(rng.standard_normal(distance.shape), max(1.0, radius / 2))
    return 0.35 * dents / dents.std() - distance
