"""The MONAI U-Nets that have golden values."""

from segcam_jax.models.monai_unet import MonaiUNetConfig

# name -> configuration, the image's extents
NETWORKS: dict[str, tuple[MonaiUNetConfig, tuple[int, ...]]] = {
    "plain2d": (
        MonaiUNetConfig(ndim=2, in_channels=1, classes=3, channels=(4, 6, 10), strides=(2, 2)),
        (12, 20),
    ),
    "plain3d": (MonaiUNetConfig(channels=(4, 6, 10), strides=(2, 2)), (8, 12, 4)),
    "residual2d": (
        MonaiUNetConfig(
            ndim=2,
            channels=(4, 6, 10),
            strides=(2, 2),
            num_res_units=2,
            norm="instance",
            bias=False,
        ),
        (12, 20),
    ),
    # The second level neither shrinks nor widens, and so has no convolution beside it.
    "residual3d": (
        MonaiUNetConfig(channels=(4, 4, 8, 8), strides=(2, 1, 2), classes=3, num_res_units=2),
        (8, 12, 4),
    ),
    "odd3d": (
        MonaiUNetConfig(
            channels=(4, 6, 10),
            strides=((1, 2, 3), 2),
            kernel_size=(1, 3, 5),
            up_kernel_size=(3, 5, 1),
            num_res_units=1,
            norm="instance_affine",
        ),
        (4, 8, 12),
    ),
}
