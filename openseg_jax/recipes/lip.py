"""LIP: batches of 32, 100,000 steps; all images become 473 x 473, left and right swap classes."""

from __future__ import annotations

from ml_collections import ConfigDict

from openseg_jax.config import RGB_IMAGENET
from openseg_jax.recipes.backbones import nearest
from openseg_jax.recipes.common import start


def recipe(method: str, backbone: str) -> ConfigDict:
    """lip/R_101_D_8.json, H_48_D_4.json or W_38_D_8.json; MobileNetV2 as R_101_D_8.json.

    R_101_D_8 names CE2P's loss, which the original lacks: cross entropy, as H_48_D_4 has it.
    """
    config = start("lip", method, backbone)
    match nearest(backbone):
        case "resnet101" if config.data.scale == 1:  # grey levels, of which it has another mean
            config.data.mean = (104.00698793, 116.66876762, 122.67891434)
        case "wide_resnet38":
            config.data.update(RGB_IMAGENET)
    config.augment.update(
        steps=("flip", "resize", "random_resize", "crop", "brightness"),
        resize=(473, 473),
        scale=(0.5, 1.5),
        crop=(473, 473),
    )
    config.optimizer.update(learning_rate=0.007, weight_decay=5e-4)
    config.train.update(batch_size=32, steps=100_000, eval_every=10_000)
    config.eval.update(size=(473, 473), flip=True)
    return config
