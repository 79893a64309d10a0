"""Training scripts; each is a module to run: `python -m train.texture_mnist --help`."""
