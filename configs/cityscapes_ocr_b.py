"""OCR with half as many channels (OCR_B) on Cityscapes, the argument being BACKBONE.

python -m openseg_jax.main --config=configs/cityscapes_ocr_b.py:hrnet_w48 \
    --workdir=runs/cityscapes_ocr_b --config.init_from=hrnetv2_w48_imagenet_pretrained.pth
"""

from openseg_jax.recipes import NARROW_OCR, cityscapes, parse


def get_config(argument="hrnet_w48"):
    # cityscapes/hrnet/run_h_48_d_4_ocr_b.sh
    (backbone,) = parse(argument)
    config = cityscapes.recipe("ocr", backbone)
    config.model.update(NARROW_OCR)
    config.train.update(batch_size=8, steps=80_000)
    return config
