"""openseg_jax: OCNet, ISA, OCR and SegFix for semantic segmentation, in JAX.

`openseg_jax.load(path)` gives a predictor: three lines from an image to its label map.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from openseg_jax.predictor import Predictor


def load(path, config=None) -> Predictor:
    """Loads a trained model.

    Args:
        path: a workdir of `openseg_jax.main` (its best checkpoint is taken), or one checkpoint
            folder inside it.
        config: a config to use instead of the one saved beside the checkpoint.
    """
    from openseg_jax.predictor import Predictor

    return Predictor.load(path, config)
