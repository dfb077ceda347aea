"""OCR with RMI on LIP, of the original's newer branch: BACKBONE[,published].

python -m openseg_jax.main --config=configs/lip_ocr_rmi.py:hrnet_w48 \
    --workdir=runs/lip_ocr_rmi --config.init_from=HRNet_W48_C_ssld_pretrained.pth
"""

from openseg_jax.recipes import lip, newer_branch, parse


def get_config(argument="hrnet_w48"):
    # run_h_48_d_4_ocr_train_rmi_paddle.sh (lip) is named after RMI, but takes the cross entropy
    backbone, published = parse(argument, "published")
    config = lip.recipe("ocr", backbone)
    newer_branch(config)
    config.loss.name = "ce" if published else "rmi"
    return config
