"""OCR with RMI on COCO-Stuff-10K, of the original's newer branch; the argument is BACKBONE.

python -m openseg_jax.main --config=configs/coco_stuff_ocr_rmi.py:hrnet_w48 \
    --workdir=runs/coco_stuff_ocr_rmi --config.init_from=HRNet_W48_C_ssld_pretrained.pth
"""

from openseg_jax.recipes import coco_stuff, newer_branch, parse


def get_config(argument="hrnet_w48"):
    # coco_stuff: run_h_48_d_4_ocr_ohem_train_rmi_paddle.sh, which has no hard pixels
    (backbone,) = parse(argument)
    config = coco_stuff.recipe("ocr", backbone)
    newer_branch(config)
    config.loss.name = "rmi"
    config.train.eval_every = 10_000
    return config
