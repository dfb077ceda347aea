"""Pascal VOC 2012 with SBD's further images: batches of 16, 60,000 steps; short side 513.

The original lost these recipes in 2019; its history has them for ResNet-101 and HRNetV2-W48.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from openseg_jax.recipes.backbones import nearest
from openseg_jax.recipes.common import at_side, start


def recipe(method: str, backbone: str) -> ConfigDict:
    """pascal_voc/*.json of December 2019; MobileNetV2 as ResNet-101."""
    config = start("pascal_voc", method, backbone)
    config.data.train_split = "trainaug"
    at_side(config, 513)
    on_hrnet = nearest(backbone) == "hrnet_w48"
    config.loss.update(ohem_threshold=0.7, ohem_min_kept=100_000 if on_hrnet else 50_000)
    config.optimizer.update(learning_rate=0.001, head_lr_multiplier=10.0, weight_decay=1e-4)
    config.train.update(batch_size=16, steps=60_000, eval_every=5000)
    return config
