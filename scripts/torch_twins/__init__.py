"""PyTorch twins of our networks: the opponents of `scripts/benchmark.py`.

Our own code after the papers and the original's state-dict keys, so that the same weights fit
and the same golden numbers check them. Plain batch norm only.
"""

from torch_twins.build import build
from torch_twins.layers import fold_batch_norm

__all__ = ["build", "fold_batch_norm"]
