"""COCO-Stuff-10K, 171 classes: batches of 16, 60,000 steps; the short side has 520 pixels."""

from __future__ import annotations

from ml_collections import ConfigDict

from openseg_jax.recipes.backbones import nearest
from openseg_jax.recipes.common import at_side, start


def recipe(method: str, backbone: str) -> ConfigDict:
    """coco_stuff/R_101_D_8.json or H_48_D_4.json; MobileNetV2 as R_101_D_8.

    For Wide-ResNet38 there is none: pascal_context/W_38_D_8.json has equal data and schedule.
    """
    config = start("coco_stuff", method, backbone)
    at_side(config, 520)
    row = nearest(backbone)
    config.loss.update(
        ohem_threshold=0.7 if row == "wide_resnet38" else 0.9,
        ohem_min_kept=100_000 if row == "hrnet_w48" else 50_000,
    )
    config.optimizer.update(learning_rate=0.001, head_lr_multiplier=10.0, weight_decay=1e-4)
    config.train.update(batch_size=16, steps=60_000, eval_every=5000)
    return config
