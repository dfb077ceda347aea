"""What the original's recipes share; `configs/<dataset>_<method>.py` add what is their own.

There is a module for each data set, and `backbones` for what follows from the backbone. Comments
name the original's files: `X.json` lies below its `configs/`, `run_X.sh` below its `scripts/`.
Batch sizes and iterations are those of its README's tables; where the scripts, and so the
published checkpoints and numbers, have other values, these are the recipe `BACKBONE,published`.
"""

from openseg_jax.recipes.backbones import nearest
from openseg_jax.recipes.common import NARROW_OCR, at_side, newer_branch, parse, start

__all__ = ["NARROW_OCR", "at_side", "nearest", "newer_branch", "parse", "start"]
