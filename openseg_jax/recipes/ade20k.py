"""ADE20K: batches of 16, 150,000 steps; the short side of images has 520 pixels."""

from __future__ import annotations

from ml_collections import ConfigDict

from openseg_jax.recipes.backbones import nearest
from openseg_jax.recipes.common import at_side, start


def recipe(method: str, backbone: str) -> ConfigDict:
    """ade20k/R_101_D_8.json, M_V2_D_8.json, W_38_D_8.json or, at 0.9, H_48 and R_50."""
    config = start("ade20k", method, backbone)
    at_side(config, 520)
    patient = nearest(backbone) == "hrnet_w48" or backbone == "resnet50"
    config.loss.update(ohem_threshold=0.9 if patient else 0.7, ohem_min_kept=100_000)
    config.optimizer.update(learning_rate=0.02, weight_decay=1e-4)
    config.train.update(batch_size=16, steps=150_000, eval_every=10_000)
    config.eval.fit_stride = 8
    return config
