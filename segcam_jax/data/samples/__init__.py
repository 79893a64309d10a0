"""What the package ships to explain: TextureMNIST samples; `lesions` has a case for 3D networks."""

from segcam_jax.data.samples.texture_mnist import (
    BACKGROUND as BACKGROUND,
    BUNDLED_SAMPLES as BUNDLED_SAMPLES,
    CLASSES as CLASSES,
    PATH as PATH,
    BundledSamples as BundledSamples,
    TextureMnistSample as TextureMnistSample,
    load as load,
    save as save,
)
