"""OCR with RMI on Pascal-Context, of the original's newer branch; the argument is BACKBONE.

python -m openseg_jax.main --config=configs/pascal_context_ocr_rmi.py:hrnet_w48 \
    --workdir=runs/pascal_context_ocr_rmi --config.init_from=HRNet_W48_C_ssld_pretrained.pth
"""

from openseg_jax.recipes import newer_branch, parse, pascal_context


def get_config(argument="hrnet_w48"):
    # pascal_context: run_h_48_d_4_ocr_train_rmi_paddle.sh
    (backbone,) = parse(argument)
    config = pascal_context.recipe("ocr", backbone, published=True)
    newer_branch(config)
    config.loss.name = "rmi"
    config.train.eval_every = 10_000
    return config
