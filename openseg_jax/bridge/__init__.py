"""PyTorch weights: reading files, renaming, converting."""
