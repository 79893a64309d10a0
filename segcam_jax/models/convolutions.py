"""Convolutions by number, as the source notebook of the classifiers counts them."""

from segcam_jax.types import InputError


def convolution_tap(model, index: int) -> str:
    """The tap of the n-th convolution, counted from 1 in the order of torchvision's modules.

    DenseNet-121 has 120 convolutions, ResNet-152 has 155, Inception-v3 has 96.

    Args:
        model: one of the classifiers, with its `convolutions`.
        index: from 1; the last one is not always the network's last feature map.

    Returns:
        The name of a tap: the convolution's raw output, before BatchNorm and ReLU.

    Raises:
        InputError: if there is no such convolution, or it runs in training only.

    Example:
        >>> from flax import nnx
        >>> from segcam_jax.models.densenet import densenet
        >>> model = nnx.eval_shape(lambda: densenet(121))
        >>> convolution_tap(model, 120)
        'block4/layer16/conv2'
    """
    names = model.convolutions()
    idle = [n for n, name in enumerate(names, 1) if name.startswith("auxiliary/")]
    valid = f"1 to {len(names)}"
    if idle:
        valid = f"1 to {idle[0] - 1} or {idle[-1] + 1} to {len(names)}"
    if isinstance(index, bool) or not isinstance(index, int) or not 1 <= index <= len(names):
        raise InputError(
            f"convolution {index!r} of {type(model).__name__} does not exist; choose from {valid}"
        )
    if index in idle:
        raise InputError(
            f"convolution {index} of {type(model).__name__} belongs to the auxiliary classifier, "
            f"which runs in training only and has no activation; choose from {valid}"
        )
    return names[index - 1]
