"""A small project of one's own: pictures of discs and squares, and which pixels belong to which."""

import numpy as np

CLASSES = ("background", "disc", "square")


def batch(count: int, *, side: int = 48, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Noisy pictures with four shapes each: discs are bright, squares are dark.

    Args:
        count: n.
        side: of a picture, in pixels.
        seed: of the random numbers.

    Returns:
        Pictures `n h w 1`, float32 in [0, 1], and labels `n h w`, int32.
    """
    random = np.random.default_rng(seed)
    rows, columns = np.mgrid[:side, :side]
    images = 0.3 + 0.05 * random.standard_normal((count, side, side, 1))
    labels = np.zeros((count, side, side), np.int32)
    for image, label in zip(images, labels, strict=True):
        for quarter in range(4):
            corner = np.array(divmod(quarter, 2)) * side // 2
            row, column = corner + random.integers(8, side // 2 - 8, 2)
            size, kind = random.integers(4, 7), 1 + (quarter + int(random.integers(2))) % 2
            down, across = abs(rows - row), abs(columns - column)
            inside = (
                np.hypot(down, across) <= size if kind == 1 else np.maximum(down, across) < size
            )
            label[inside] = kind
            image[inside] += 0.4 if kind == 1 else -0.2
    return np.clip(images, 0, 1).astype(np.float32), labels
