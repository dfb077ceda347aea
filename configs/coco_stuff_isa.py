"""ISA on COCO-Stuff-10K: BACKBONE[,published] of the original's tables.

python -m openseg_jax.main --config=configs/coco_stuff_isa.py:resnet101 \
    --workdir=runs/coco_stuff_isa --config.init_from=resnet101-imagenet.pth

MODEL_ZOO.md lists the backbones and their ImageNet weights.
"""

from openseg_jax.recipes import coco_stuff, parse


def get_config(argument="resnet101"):
    # resnet101: no script; R_101_D_8.json, as OCR
    # hrnet_w48: coco_stuff/run_h_48_d_4_isa_train.sh
    # wide_resnet38: no script; pascal_context/W_38_D_8.json
    # mobilenet_v2: no script; as ResNet-101
    backbone, _ = parse(argument, "published")
    return coco_stuff.recipe("isa", backbone)
