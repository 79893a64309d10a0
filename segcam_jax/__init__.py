"""Exact, fast explanations of segmentation networks and classifiers for any JAX model."""

__version__ = "0.1.0"
