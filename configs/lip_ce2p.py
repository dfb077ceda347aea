"""CE2P with ASP-OCR, people's parts and their edges, on LIP; the argument is BACKBONE.

python -m openseg_jax.main --config=configs/lip_ce2p.py:resnet101 \
    --workdir=runs/lip_ce2p --config.init_from=resnet101-imagenet.pth
"""

from openseg_jax.recipes import lip, parse


def get_config(argument="resnet101"):
    # lip/run_r_101_d_16_ce2p_ocr_train.sh, whose network and loss the original lacks. This is its
    # ce2p_asp_ocrnet, with a loss of the edges.
    (backbone,) = parse(argument)
    config = lip.recipe("ce2p", backbone)
    if backbone.startswith(("resnet", "resnext", "resnest")):  # lip/R_101_D_16.json
        config.model.output_stride = 16
    config.loss.name = "ce2p"
    return config
