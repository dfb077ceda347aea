"""OCR on Cityscapes as in the original's newer branch: BACKBONE[,ce][,ohem] instead of RMI.

python -m openseg_jax.main --config=configs/cityscapes_ocr_rmi.py:hrnet_w48 \
    --workdir=runs/cityscapes_ocr_rmi --config.init_from=HRNet_W48_C_ssld_pretrained.pth
"""

from openseg_jax.recipes import cityscapes, newer_branch, parse


def get_config(argument="hrnet_w48"):
    # run_h_48_d_4_ocr_rmi_paddle.sh; ce: run_h_48_d_4_ocr_paddle.sh; ohem: …_paddle_ohem.sh
    backbone, ce, ohem = parse(argument, "ce", "ohem")
    config = cityscapes.recipe("ocr", backbone)
    newer_branch(config)
    config.loss.name = "ohem" if ohem else "ce" if ce else "rmi"
    if not (ce or ohem):  # the *_RMI.json have none
        config.loss.class_weights = ()
    config.optimizer.learning_rate = 0.02
    config.train.update(batch_size=16, steps=40_000)
    return config
