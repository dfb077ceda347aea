"""Pascal-Context, 59 classes: batches of 16, 30,000 steps; the short side has 520 pixels."""

from __future__ import annotations

from ml_collections import ConfigDict

from openseg_jax.recipes.backbones import nearest
from openseg_jax.recipes.common import at_side, start


def recipe(method: str, backbone: str, published: bool = False) -> ConfigDict:
    """pascal_context/R_101_D_8.json, W_38_D_8.json or H_48_D_4.json; MobileNetV2 as R_101_D_8.

    Args:
        published: all scripts with HRNet have 60,000 steps.
    """
    config = start("pascal_context", method, backbone)
    at_side(config, 520)
    on_hrnet = nearest(backbone) == "hrnet_w48"
    config.loss.update(ohem_threshold=0.7, ohem_min_kept=100_000 if on_hrnet else 50_000)
    config.optimizer.update(learning_rate=0.001, head_lr_multiplier=10.0, weight_decay=1e-4)
    steps = 60_000 if published and on_hrnet else 30_000
    config.train.update(batch_size=16, steps=steps, eval_every=5000)
    return config
