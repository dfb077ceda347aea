"""OCR on Cityscapes as in the original's newer branch: BACKBONE[,ce][,ohem][,trainval].

With ce or ohem there is no RMI in the loss; trainval is for submissions, as it trains on val, too.

python -m openseg_jax.main --config=configs/cityscapes_ocr_rmi.py:hrnet_w48 \
    --workdir=runs/cityscapes_ocr_rmi --config.init_from=HRNet_W48_C_ssld_pretrained.pth
"""

from openseg_jax.recipes import cityscapes, newer_branch, parse


def get_config(argument="hrnet_w48"):
    # run_h_48_d_4_ocr_rmi_paddle.sh; ce: run_h_48_d_4_ocr_paddle.sh; ohem: …_paddle_ohem.sh;
    # trainval: …_ocr_trainval_paddle.sh, …_ocr_trainval_ohem_paddle.sh
    backbone, ce, ohem, trainval = parse(argument, "ce", "ohem", "trainval")
    config = cityscapes.recipe("ocr", backbone)
    newer_branch(config)
    config.loss.name = "ohem" if ohem else "ce" if ce else "rmi"
    if not (ce or ohem):  # the *_RMI.json have none
        config.loss.class_weights = ()
    config.optimizer.learning_rate = 0.02
    config.data.train_split = "trainval" if trainval else "train"
    config.train.update(batch_size=16, steps=80_000 if trainval else 40_000)
    return config
