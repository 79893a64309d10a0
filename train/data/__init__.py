"""Readers and generators of training data: numpy out, images in [0, 1], labels int32."""
