"""Tensors on disk: our own files, and those of other libraries mapped by tables."""
