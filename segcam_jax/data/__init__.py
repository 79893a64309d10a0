"""Readers and generators that yield numpy arrays: images float32 in [0, 1], labels int32."""
