"""Metrics: segmentation quality, faithfulness and localisation of explanations, sanity checks."""
