"""OCR with half as many channels (OCR_B) on LIP, the argument being BACKBONE.

python -m openseg_jax.main --config=configs/lip_ocr_b.py:hrnet_w48 \
    --workdir=runs/lip_ocr_b --config.init_from=hrnetv2_w48_imagenet_pretrained.pth
"""

from openseg_jax.recipes import NARROW_OCR, lip, parse


def get_config(argument="hrnet_w48"):
    # lip/run_h_48_d_4_ocr_b_train.sh
    (backbone,) = parse(argument)
    config = lip.recipe("ocr", backbone)
    config.model.update(NARROW_OCR)
    return config
