"""CelebAMask-HQ: batches of 16, 150,000 steps; all images become 512 x 512."""

from __future__ import annotations

from ml_collections import ConfigDict

from openseg_jax.recipes.common import start


def recipe(method: str, backbone: str) -> ConfigDict:
    """celeba/H_48_D_4.json, which is for HRNet; other backbones have nothing nearer."""
    config = start("celeba_mask", method, backbone)
    config.augment.update(
        steps=("flip", "resize", "random_resize", "crop", "brightness"),
        resize=(512, 512),
        crop=(512, 512),
    )
    config.loss.update(ohem_threshold=0.7, ohem_min_kept=100_000)
    config.optimizer.update(learning_rate=0.001, head_lr_multiplier=10.0, weight_decay=1e-4)
    config.train.update(batch_size=16, steps=150_000, eval_every=2000)
    config.eval.size = (512, 512)
    return config
