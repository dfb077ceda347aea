"""Which of our modules gives the intermediate results that the golden numbers include.

A table a model of the original: the golden's name of a tensor -> the path of a module below our
head, with ".0" or ".1" behind it where that module returns a tuple.
"""

OCR = {
    "conv_3x3": "pixels",
    "spatial_context_head": "gather",
    "spatial_ocr_head.object_context_block": "attention",
    "spatial_ocr_head": "fuse",
}
IDEAL_OCR = OCR | {"spatial_ocr_head.object_context_block": "attention.0"}
IDEAL_OCR_WITH_BACKGROUND = {
    "conv_3x3": "pixels",
    "spatial_context_head": "gather",
    "spatial_ocr_head.object_context_block.0": "attention.0",
    "spatial_ocr_head.object_context_block.1": "attention.1",
    "spatial_ocr_head": "fuse",
}
HRNET_OCR = {
    "conv3x3": "pixels",
    "ocr_gather_head": "gather",
    "ocr_distri_head.object_context_block": "attention",
    "ocr_distri_head": "fuse",
}
ASP_OCR = {
    "asp_ocr_head.context.1": "context.pixels",
    "asp_ocr_head.object_head": "context.gather",
    "asp_ocr_head.context.2": "context.attention",
    "asp_ocr_head": "context",
}

HEAD_OUTPUTS: dict[str, dict[str, str]] = {
    "fcnet": {"dsn_head.1": "auxiliary.block", "cls_head.1": "main.block"},
    "hrnet_w48": {"cls_head.1": "main.block"},
    "base_ocnet": {
        "oc_module_pre": "pixels",
        "oc_module.stages.0": "attention",
        "oc_module": "fuse",
    },
    "asp_ocnet": {
        "context.1": "pixels",
        "context.2.context": "context",
        "context.2": "pyramid",
    },
    "isanet": {
        "isa_head.1": "pixels",
        **{f"isa_head.2.stages.{i}": f"attention.stages.{i}" for i in range(16)},
        "isa_head.2": "attention",
    },
    "spatial_ocrnet": OCR,
    "ideal_spatial_ocrnet": IDEAL_OCR,
    "ideal_spatial_ocrnet_b": IDEAL_OCR_WITH_BACKGROUND,
    "ideal_spatial_ocrnet_c": IDEAL_OCR_WITH_BACKGROUND,
    "ideal_gather_ocrnet": OCR,
    "ideal_distribute_ocrnet": IDEAL_OCR,
    "spatial_asp_ocrnet": ASP_OCR,
    "hrnet_w48_ocr": HRNET_OCR,
    "hrnet_w48_ocr_b": HRNET_OCR,
    "hrnet_w48_asp_ocr": ASP_OCR,
    "ce2p_asp_ocrnet": {
        "edgelayer.0": "edges.0",
        "edgelayer.1": "edges.1",
        "asp_ocr_head.object_head": "context.gather",
        "asp_ocr_head": "context",
        "decoder.0": "decoder.0",
        "decoder.1": "decoder.1",
    },
    "segfix_hrnet": {"mask_head.1": "mask.block", "dir_head.1": "direction.block"},
}
