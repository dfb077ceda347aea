"""FCN on Pascal-Context: BACKBONE[,published] of the original's tables.

python -m openseg_jax.main --config=configs/pascal_context_fcn.py:resnet101 \
    --workdir=runs/pascal_context_fcn --config.init_from=resnet101-imagenet.pth

MODEL_ZOO.md lists the backbones and their ImageNet weights.
"""

from openseg_jax.recipes import parse, pascal_context


def get_config(argument="resnet101"):
    # resnet101: pascal_context/run_r_101_d_8_train.sh
    # hrnet_w48: pascal_context/run_h_48_d_4_train.sh, whose auxiliary loss has no output
    # wide_resnet38: no script; W_38_D_8.json
    # mobilenet_v2: no script; as ResNet-101
    backbone, published = parse(argument, "published")
    return pascal_context.recipe("fcn", backbone, published)
