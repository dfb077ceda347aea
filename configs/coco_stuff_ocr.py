"""OCR on COCO-Stuff-10K: BACKBONE[,published] of the original's tables.

python -m openseg_jax.main --config=configs/coco_stuff_ocr.py:resnet101 \
    --workdir=runs/coco_stuff_ocr --config.init_from=resnet101-imagenet.pth

MODEL_ZOO.md lists the backbones and their ImageNet weights.
"""

from openseg_jax.recipes import coco_stuff, nearest, parse


def get_config(argument="resnet101"):
    # resnet101: coco_stuff/run_r_101_d_8_ocr_train.sh
    # hrnet_w48: coco_stuff/run_h_48_d_4_ocr_train.sh; published is run_h_48_d_4_ocr_ohem_train.sh
    # wide_resnet38: no script; pascal_context/W_38_D_8.json
    # mobilenet_v2: no script; as ResNet-101
    backbone, published = parse(argument, "published")
    config = coco_stuff.recipe("ocr", backbone)
    if published and nearest(backbone) == "hrnet_w48":
        config.loss.name = "ohem"
    return config
