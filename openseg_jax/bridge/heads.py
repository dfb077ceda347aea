"""What the parts of our heads are called in the original's state dicts.

A table a model of the original: the path of a module below our head -> PyTorch's path. A
`ConvNormAct` is named by its convolution, whose norm has the next index; a `Conv` or a `NormAct`
by itself.
"""

from __future__ import annotations

Names = dict[str, str]

MAX_ISA_STAGES = 16  # the original's configs have one


def _below(ours: str, theirs: str, names: Names) -> Names:
    """The same names for a module that is at `ours` in our head and at `theirs` in theirs."""
    return {f"{ours}.{key}": f"{theirs}.{name}" for key, name in names.items()}


def _conv_classifier(ours: str, theirs: str, last: int) -> Names:
    """A `ConvClassifier`; its classifier is element `last` of their `Sequential`."""
    return {f"{ours}.block": f"{theirs}.0", f"{ours}.classifier": f"{theirs}.{last}"}


def _self_attention(ours: str, theirs: str) -> Names:
    names = {
        "query.0": "f_query.0",
        "query.1": "f_query.2",
        "key.0": "f_key.0",
        "key.1": "f_key.2",
        "value": "f_value",
        "output": "W",  # OCNet's is a convolution alone
        "output.0": "W.0",  # ISA's has a norm
    }
    return _below(ours, theirs, names)


def _object_attention(ours: str, theirs: str) -> Names:
    names = {
        "query.0": "f_pixel.0",
        "query.1": "f_pixel.2",
        "key.0": "f_object.0",
        "key.1": "f_object.2",
        "value.0": "f_down.0",
        "output.0": "f_up.0",
    }
    return _below(ours, f"{theirs}.object_context_block", names)


def _pyramid(ours: str, theirs: str) -> Names:
    names = {f"branches.{i}": f"conv{i + 2}.0" for i in range(4)}
    return _below(ours, theirs, names | {"fuse": "conv_bn_dropout.0"})


def _ocr(pixels: str, attention: str, classifier: str) -> Names:
    return {
        "pixels": f"{pixels}.0",
        **_object_attention("attention", attention),
        "fuse": f"{attention}.conv_bn_dropout.0",
        "classifier": classifier,
    }


def _asp_ocr() -> Names:
    return {
        "context.pixels": "asp_ocr_head.context.0",
        **_object_attention("context.attention", "asp_ocr_head.context.2"),
        **_pyramid("context.pyramid", "asp_ocr_head"),
    }


def _isa(theirs: str) -> Names:
    names = {"attention.widen": f"{theirs}.up_conv.0", "attention.fuse": f"{theirs}.conv_bn.0"}
    for stage in range(MAX_ISA_STAGES):
        for attention in ("long_range", "short_range"):
            names |= _self_attention(
                f"attention.stages.{stage}.{attention}",
                f"{theirs}.stages.{stage}.{attention}_sa",
            )
    return names


AUXILIARY = _conv_classifier("auxiliary", "dsn_head", 3)
OCNET_AUXILIARY = _conv_classifier("auxiliary", "dsn", 2)
HRNET_AUXILIARY = _conv_classifier("auxiliary", "aux_head", 2)
OCR = AUXILIARY | _ocr("conv_3x3", "spatial_ocr_head", "head")
HRNET_OCR = HRNET_AUXILIARY | _ocr("conv3x3", "ocr_distri_head", "cls_head")

HEAD_NAMES: dict[str, Names] = {
    "fcnet": AUXILIARY | _conv_classifier("main", "cls_head", 3),
    "hrnet_w48": _conv_classifier("main", "cls_head", 3),
    "base_ocnet": OCNET_AUXILIARY
    | {
        "pixels": "oc_module_pre.0",
        **_self_attention("attention", "oc_module.stages.0"),
        "fuse": "oc_module.conv_bn_dropout.0",
        "classifier": "cls",
    },
    "asp_ocnet": OCNET_AUXILIARY
    | {
        "pixels": "context.0",
        "context.reduce": "context.2.context.0",
        **_self_attention("context.attention", "context.2.context.2.stages.0"),
        "context.norm_act": "context.2.context.2.conv_bn_dropout.0",
        **_pyramid("pyramid", "context.2"),
        "classifier": "cls",
    },
    "isanet": AUXILIARY | {"pixels": "isa_head.0", **_isa("isa_head.2"), "classifier": "cls_head"},
    # Never in the original's list of models; called as its other HRNets are.
    "hrnet_w48_isa": {"pixels": "conv3x3.0", **_isa("isa_head"), "classifier": "cls_head"},
    "spatial_ocrnet": OCR,
    "ideal_spatial_ocrnet": OCR,
    "ideal_spatial_ocrnet_b": OCR,
    "ideal_spatial_ocrnet_c": OCR,
    "ideal_gather_ocrnet": OCR,
    "ideal_distribute_ocrnet": OCR,
    "hrnet_w48_ocr": HRNET_OCR,
    "hrnet_w48_ocr_b": HRNET_OCR,
    "spatial_asp_ocrnet": AUXILIARY | _asp_ocr() | {"classifier": "head"},
    "hrnet_w48_asp_ocr": HRNET_AUXILIARY | _asp_ocr() | {"classifier": "cls_head"},
    "ce2p_asp_ocrnet": {
        **{f"edges.reduce.{i}": f"edgelayer.conv{i + 1}.0" for i in range(3)},
        "edges.side_classifier": "edgelayer.conv4",
        "edges.classifier": "edgelayer.conv5",
        **_conv_classifier("auxiliary", "dsn", 3),
        **_asp_ocr(),
        "decoder.deep": "decoder.conv1.0",
        "decoder.fine": "decoder.conv2.0",
        "decoder.fuse.0": "decoder.conv3.0",
        "decoder.fuse.1": "decoder.conv3.2",
        "decoder.classifier": "decoder.conv4",
        **_conv_classifier("main", "cls", 2),
    },
    "segfix_hrnet": _conv_classifier("mask", "mask_head", 2)
    | _conv_classifier("direction", "dir_head", 2),
}
