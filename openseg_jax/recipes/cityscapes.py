"""Cityscapes: crops of 512 x 1024, class weights; evaluated on whole images as they are."""

from __future__ import annotations

from ml_collections import ConfigDict

from openseg_jax.config import RGB_IMAGENET
from openseg_jax.recipes.backbones import nearest
from openseg_jax.recipes.common import start

# fmt: off
CLASS_WEIGHTS = (
    0.8373, 0.9180, 0.8660, 1.0345, 1.0166, 0.9969, 0.9754, 1.0489, 0.8786, 1.0023,
    0.9539, 0.9843, 1.1116, 0.9037, 1.0865, 1.0955, 1.0865, 1.1529, 1.0507,
)
# fmt: on


def recipe(method: str, backbone: str) -> ConfigDict:
    """All but batch size and steps, which depend on method and backbone."""
    config = start("cityscapes", method, backbone)
    config.augment.update(steps=("random_resize", "crop", "flip", "brightness"), crop=(512, 1024))
    config.loss.class_weights = CLASS_WEIGHTS
    config.optimizer.update(learning_rate=0.01, weight_decay=5e-4)
    config.train.eval_every = 1000
    match nearest(backbone):
        case "resnet101":
            # cityscapes/R_101_D_8.json, for the other ResNets too: R_50_D_8.json and R_18_D_8.json
            # differ (crops of 769, evaluation every 5000 steps), but no row of the tables has them.
            config.loss.update(ohem_threshold=0.7, ohem_min_kept=100_000)
        case "hrnet_w48":  # cityscapes/H_48_D_4.json; H_64_D_4.json has a threshold of 0.7
            config.loss.update(ohem_threshold=0.9, ohem_min_kept=100_000)
        case "mobilenet_v2":  # cityscapes/M_V2_D_8.json
            config.loss.update(ohem_threshold=0.7, ohem_min_kept=200_000)
            config.train.eval_every = 5000
        case "wide_resnet38":  # cityscapes/W_38_D_8.json, which no script uses
            config.data.update(RGB_IMAGENET)
            config.augment.crop = (800, 800)
            config.loss.update(name="ohem", ohem_threshold=0.7, ohem_min_kept=200_000)
            config.loss.update(aux_weight=0.2, class_weights=())
            config.optimizer.learning_rate = 0.002
    return config
