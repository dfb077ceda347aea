"""OCNet with ASP-OC on ADE20K, the argument being BACKBONE.

python -m openseg_jax.main --config=configs/ade20k_asp_ocnet.py:resnet101 \
    --workdir=runs/ade20k_asp_ocnet --config.init_from=resnet101-imagenet.pth
"""

from openseg_jax.recipes import ade20k, parse


def get_config(argument="resnet101"):
    # resnet101: ade20k/ocnet/run_res101d8_aspocnet_ade20k_seg.sh; resnet50: run_res50d8_…
    (backbone,) = parse(argument)
    return ade20k.recipe("asp_ocnet", backbone)
