"""Images and their masks, which lie in two folders: which belong together.

| images | masks | paired by |
|---|---|---|
| `a.jpg` | `a.png` | name |
| `a.jpg` | `a_mask.png`, `a-label.png` | name, without that end |
| `pesca001.png` | `taglio001.png` | last number, if names of a folder differ in numbers alone |

The first of these that gives every image one mask and every mask one image decides for all of them.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from segcam_jax.types import InputError, counted

_ENDS = re.compile(r"[_-](masks?|labels?|seg|segmentation|gt|truth)$", re.IGNORECASE)
_NUMBER = re.compile(r"[0-9]+")
_NAMED = 5  # files that a message names

Key = Callable[[Path], str]


def paired(images: Sequence[Path], masks: Sequence[Path]) -> list[tuple[Path, Path]]:
    """Gives each image its mask, by their names.

    Returns:
        `(image, mask)` of each image, in the order of the images.
    """
    best: tuple[int, list[Path], list[Path]] = (-1, list(images), list(masks))
    keys = [lambda path: path.stem, lambda path: _ENDS.sub("", path.stem)]
    if all(len({_NUMBER.sub("", path.stem) for path in files}) == 1 for files in (images, masks)):
        keys.append(_last_number)  # Else dog_3 would get the mask of cat_3.
    for key in keys:
        first, second = (_by_key(files, key) for files in (images, masks))
        if first is None or second is None:
            continue
        alone = [path for name, path in first.items() if name not in second]
        others = [path for name, path in second.items() if name not in first]
        if not alone and not others:
            return [(path, second[name]) for name, path in first.items()]
        common = len(first) - len(alone)
        if common > best[0]:
            best = (common, alone, others)
    raise InputError(_without_partner(*best))


def _by_key(files: Sequence[Path], key: Key) -> dict[str, Path] | None:
    """The files by their keys; None if a key is empty or two files have the same."""
    keys = [key(path) for path in files]
    if "" in keys or any(count > 1 for count in Counter(keys).values()):
        return None
    return dict(zip(keys, files, strict=True))


def _last_number(path: Path) -> str:
    numbers = _NUMBER.findall(path.stem)
    return str(int(numbers[-1])) if numbers else ""


def _without_partner(common: int, images: list[Path], masks: list[Path]) -> str:
    """The message on those that have no partner."""
    parts = []
    for files, noun, other in ((images, "image", "mask"), (masks, "mask", "image")):
        if files:
            names = ", ".join(path.name for path in files[:_NAMED])
            names += f" and {len(files) - _NAMED} more" if len(files) > _NAMED else ""
            verb = "has" if len(files) == 1 else "have"
            parts.append(f"{counted(len(files), noun)} {verb} no {other} ({names})")
    why = "; an image and its mask have the same name, or the same number if names in each folder "
    why = "" if common > 0 else f"{why}differ in numbers alone"
    return f"{' and '.join(parts)}{why}; add the missing files, or move these elsewhere"
