"""Readers that yield numpy arrays: images float32 in [0, 1], labels int32."""

import sys
from importlib.abc import MetaPathFinder

# What generates training data is no part of the package; names before -> in `train.data`.
_MOVED = {
    "digits": "digits",
    "folders": "image_folders",
    "labelled": "labelled",
    "lesions": "lesions",
    "polen": "pollen23e",
    "template": "brain_template",
    "texture_mnist": "texture_mnist",
    "texture_mnist_config": "texture_mnist",
    "textures": "textures",
    "tfrecord": "tfrecord",
}


class _Moved(MetaPathFinder):
    """Says where a module is now, when no other finder knows it."""

    def find_spec(self, fullname, path=None, target=None):
        package, _, name = fullname.rpartition(".")
        if package == __name__ and name in _MOVED:
            # Not a ModuleNotFoundError, which `from segcam_jax.data import ...` would replace.
            raise ImportError(
                f"{fullname} is now train.data.{_MOVED[name]}, which only the repository has, not "
                'the package; clone it and run: pip install -e ".[train]"',
                name=fullname,
            )


sys.meta_path.append(_Moved())
