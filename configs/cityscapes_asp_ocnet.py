"""OCNet with ASP-OC on Cityscapes, the argument being BACKBONE.

python -m openseg_jax.main --config=configs/cityscapes_asp_ocnet.py:resnet101 \
    --workdir=runs/cityscapes_asp_ocnet --config.init_from=resnet101-imagenet.pth
"""

from openseg_jax.recipes import cityscapes, parse


def get_config(argument="resnet101"):
    # cityscapes/ocnet/run_r_101_d_8_aspoc_train.sh
    (backbone,) = parse(argument)
    config = cityscapes.recipe("asp_ocnet", backbone)
    config.train.update(batch_size=8, steps=40_000)
    return config
