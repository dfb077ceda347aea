"""The configs of the model zoo: the original's tables, and what there is beside them."""

from __future__ import annotations

from pathlib import Path

from openseg_jax import config as config_lib

ROOT = Path(__file__).resolve().parent.parent

METHODS = ("fcn", "ocnet", "isa", "ocr")
LARGE = ("resnet101", "wide_resnet38", "hrnet_w48")  # the backbones of all tables
# What there is beside the four methods on the backbones of the tables.
MORE = {
    "cityscapes": (
        *("fcn:resnest101", "ocr:resnet50", "ocr:hrnet_w18", "ocr:hrnet_w32"),
        *("asp_ocnet:resnet101", "asp_ocr:resnet101", "asp_ocr:hrnet_w48"),
        *("ideal_ocr:resnet101", "ocr_b:hrnet_w48"),
        *(f"ocr_stages:hrnet_w48{stage}" for stage in ("", ",coarse", ",final")),
        *(f"ocr_stages:resnet101{stage}" for stage in ("", ",coarse", ",final")),
        *(
            f"ocr_rmi:hrnet_w48{loss}"
            for loss in ("", ",ce", ",ohem", ",ce,trainval", ",ohem,trainval")
        ),
        *(f"segfix:hrnet_w48{flag}" for flag in ("", ",instances", ",trainval")),
        *(f"segfix:hrnet_2x20{flag}" for flag in ("", ",instances", ",trainval")),
    ),
    "ade20k": (
        *("ocnet:resnet50", "ocr:resnet50", "asp_ocnet:resnet50", "asp_ocnet:resnet101"),
        *("asp_ocr:resnet101", "asp_ocr:hrnet_w48"),
        *("ideal_ocr:resnet50", "ideal_ocr:resnet101", "ocr_rmi:hrnet_w48"),
    ),
    "lip": ("ocr_b:hrnet_w48", "ocr_rmi:hrnet_w48", "ce2p:resnet101"),
    "pascal_voc": (),
    "pascal_context": (
        *("asp_ocr:resnet101", "ideal_ocr:resnet101", "ocr_b:hrnet_w48", "ocr_rmi:hrnet_w48"),
    ),
    "coco_stuff": ("ideal_ocr:resnet101", "ocr_rmi:hrnet_w48"),
    "mapillary": ("ocr_b:hrnet_w48",),
    "celeba_mask": ("fcn:hrnet_w48", "ocr:hrnet_w48"),
}
GRID = ("cityscapes", "ade20k", "lip", "pascal_voc", "pascal_context", "coco_stuff")


def table_rows(dataset: str) -> list[str]:
    """The configs of a data set in the original's tables, such as `cityscapes_fcn:resnet101`."""
    backbones = LARGE if dataset != "cityscapes" else ("mobilenet_v2", *LARGE)
    return [f"{dataset}_{method}:{backbone}" for method in METHODS for backbone in backbones]


def rows(dataset: str) -> list[str]:
    """All configs of a data set: the tables', then the rest."""
    of_tables = table_rows(dataset) if dataset in GRID else []
    return of_tables + [f"{dataset}_{row}" for row in MORE[dataset]]


def read(row: str):
    """The config of a row."""
    stem, _, argument = row.partition(":")
    return config_lib.read_config(f"{ROOT / 'configs' / stem}.py:{argument}")
