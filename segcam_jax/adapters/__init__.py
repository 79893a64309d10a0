"""Models of other libraries as the plain functions `fn(params, x)` that `split` takes.

    fn, params = from_nnx(model)                  # the model is given `h w c`
    fn, params = from_nnx(model, batch_axis=0)    # ... or `1 h w c`
    fn, params = from_linen(module, variables)    # `1 h w c`
    fn, params = from_equinox(model)              # `c h w`
    fn, params = from_torch(module)               # `1 c h w`
    fn, params = from_keras(model)                # `1 h w c`
    fn, params = from_function(fn, params, channel_axis=0)

The model runs in eval mode, and the output of every submodule is a tap, named by its path:
`layers/0/conv`; `layers/0/conv#2` where it is called a second time. A tap that the author has
placed keeps its name; a submodule of that path is then `path#module`. Only calls are taps, not
other methods, and only those that return one array of floats (Equinox: with a state; PyTorch:
among other things).

Images, outputs and taps are channels last and without a batch, whatever the layout inside the
model, so that `split` needs no `batch_axis`.

The user's model and its class stay as they are: what runs is a copy of the model's structure, made
when `fn` is traced, in which each submodule is of a subclass of its class that names what its call
returns. (Linen's own `intercept_methods` does without; submodules of a copied PyTorch module get
another `forward`, and Keras's layers another `call` for the time of a trace.)

Their libraries are imported when an adapter runs, so that `import segcam_jax` stays light.
"""

from segcam_jax.adapters.detect import FORMS as FORMS, adapted as adapted, is_model as is_model
from segcam_jax.adapters.equinox_models import from_equinox as from_equinox
from segcam_jax.adapters.functions import from_function as from_function
from segcam_jax.adapters.keras_models import from_keras as from_keras
from segcam_jax.adapters.linen_models import from_linen as from_linen
from segcam_jax.adapters.nnx_models import from_nnx as from_nnx
from segcam_jax.adapters.torch_models import from_torch as from_torch
