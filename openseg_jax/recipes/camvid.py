"""CamVid's 11 classes at 480x360, on a laptop: our own recipe, the original has none."""

from __future__ import annotations

from ml_collections import ConfigDict

from openseg_jax.config import default_config
from openseg_jax.recipes.backbones import head_widths

# sqrt(median frequency / frequency) over the pixels of the training split.
CLASS_WEIGHTS = (0.52, 0.44, 2.14, 0.38, 1.00, 0.68, 1.96, 2.00, 0.87, 2.65, 3.92)


def recipe(method: str, backbone: str) -> ConfigDict:
    """At output stride 16, with the narrow heads of MobileNetV2 on any backbone."""
    config = default_config()
    config.data.name = "camvid"
    config.model.update(
        method=method,
        backbone=backbone,
        num_classes=11,
        output_stride=16,
        **head_widths(method, "mobilenet_v2"),
    )
    config.augment.update(scale=(0.6, 1.8), crop=(320, 320))
    config.loss.class_weights = CLASS_WEIGHTS
    config.optimizer.update(learning_rate=0.01, head_lr_multiplier=5.0)
    config.train.update(
        steps=2680, batch_size=8, log_every=20, eval_every=400, checkpoint_every=200
    )
    return config
