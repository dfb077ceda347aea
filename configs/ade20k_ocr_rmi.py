"""OCR with RMI on ADE20K, of the original's newer branch; the argument is BACKBONE.

python -m openseg_jax.main --config=configs/ade20k_ocr_rmi.py:hrnet_w48 \
    --workdir=runs/ade20k_ocr_rmi --config.init_from=HRNet_W48_C_ssld_pretrained.pth
"""

from openseg_jax.recipes import ade20k, newer_branch, parse


def get_config(argument="hrnet_w48"):
    # ade20k: run_h_48_d_4_ocr_rmi_paddle.sh
    (backbone,) = parse(argument)
    config = ade20k.recipe("ocr", backbone)
    newer_branch(config)
    config.loss.name = "rmi"
    return config
