"""ASP-OCR on Cityscapes, the argument being BACKBONE.

python -m openseg_jax.main --config=configs/cityscapes_asp_ocr.py:resnet101 \
    --workdir=runs/cityscapes_asp_ocr --config.init_from=resnet101-imagenet.pth
"""

from openseg_jax.recipes import cityscapes, nearest, parse


def get_config(argument="resnet101"):
    # resnet101: cityscapes/ocrnet/run_r_101_d_8_asp_ocrnet_train.sh
    # hrnet_w48: no script; as HRNet-OCR
    (backbone,) = parse(argument)
    config = cityscapes.recipe("asp_ocr", backbone)
    steps = 80_000 if nearest(backbone) == "hrnet_w48" else 40_000
    config.train.update(batch_size=8, steps=steps)
    return config
