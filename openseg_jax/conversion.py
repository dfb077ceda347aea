"""Whole checkpoints from PyTorch to ours and back, with a certificate of what happened."""

from __future__ import annotations

import importlib
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from openseg_jax import __version__, certificate
from openseg_jax import config as config_lib
from openseg_jax.bridge import safetensors
from openseg_jax.bridge.reference import (
    MODELS,
    original_names,
    reference_config,
)
from openseg_jax.bridge.state_dict import (
    Origin,
    load_state_dict,
    to_state_dict,
    world_of_keys,
)
from openseg_jax.bridge.torch_files import TorchFile, read_file, write_checkpoint
from openseg_jax.data import catalog
from openseg_jax.data.palettes import voc_colours
from openseg_jax.errors import UserError
from openseg_jax.models import segmenter
from openseg_jax.recipes.backbones import BACKBONES, nearest
from openseg_jax.training import checkpoint

PASSENGERS = "passengers.safetensors"


def torch_to_flax(
    source: Path,
    out: Path,
    *,
    model_name: str | None = None,
    backbone: str | None = None,
    num_classes: int | None = None,
    dataset: str | None = None,
    config: ConfigDict | None = None,
) -> str:
    """Converts a PyTorch checkpoint of the original into a checkpoint of ours.

    What the network is comes from `config`, else from the given original names, else from the
    `config_dict` that the original's trainer puts into its files.

    Args:
        source: a `.pth`, `.pt` or `.safetensors` file.
        out: the folder to write; `openseg predict --checkpoint` and `init_from` take it.
        dataset: the data set whose classes and colours the labels have.

    Returns:
        the certificate, as also written to `out/certificate.txt`.

    Raises:
        UserError: where the file is not of that network, and where nothing says what it is.
    """
    file = read_file(source)
    if config is None:
        config = _config_of(file, source, model_name, backbone, num_classes, dataset)
    if (out / "checkpoints").exists():
        raise UserError(f"{out} holds checkpoints already. Choose another --out.")
    network = segmenter.build(config.model, rng=None)
    try:
        report = load_state_dict(network, file.tensors)
    except UserError as error:
        raise UserError(
            f"{source}: {error}{_why_not(network, config.model.num_classes, file.tensors)}"
        ) from None
    unchanged = _same(to_state_dict(network), file.tensors)
    fingerprint = certificate.fingerprint_of(network)
    facts = _facts(source, file, config, report, unchanged, fingerprint)
    _save(network, out, config, facts)
    (out / "certificate.txt").write_text(certificate.text(facts))
    return certificate.text(facts)


def flax_to_torch(source: Path, out: Path) -> str:
    """Writes a checkpoint of ours (or the best of a workdir) as the original's state dict.

    The keys are those of the network's own batch norm: `X.0.weight` for "bn", `X.weight` for
    "inplace_abn". A converted checkpoint that was not trained comes back byte for byte.
    """
    folder = checkpoint.find(source)
    arrays, settings = checkpoint.load(folder)
    config = config_lib.from_dict(settings)
    network = segmenter.build(config.model, rng=None)
    checkpoint.fill_network(network, arrays, str(folder))
    network.origin = _read_origin(source)
    state = to_state_dict(network)
    write_checkpoint(out, state, _config_dict(config))
    return (
        f"{out}: {len(state)} keys of {' on '.join(original_names(config.model))} "
        f"with {certificate.NORMS[config.model.norm]}"
    )


def _config_of(
    file: TorchFile,
    source: Path,
    model_name: str | None,
    backbone: str | None,
    num_classes: int | None,
    dataset: str | None,
) -> ConfigDict:
    """Our config of a file, from names given by the user or found in its `config_dict`."""
    original = file.config or {}
    network, data = original.get("network") or {}, original.get("data") or {}
    model_name = model_name or network.get("model_name")
    backbone = backbone or network.get("backbone")
    num_classes = num_classes or data.get("num_classes")
    if not (model_name and backbone and num_classes):
        raise UserError(
            f"{source} does not say what network it holds. Give --config, or --model (one of "
            f"{', '.join(MODELS)}), --backbone (such as deepbase_resnet101_dilated8 or hrnet48) "
            "and --classes (their number)."
        )
    config = config_lib.default_config()
    isa = model_name in ("isanet", "hrnet_w48_isa")
    config.model = reference_config(
        model_name,
        backbone,
        int(num_classes),
        norm=world_of_keys(file.tensors),
        multi_grid=network.get("multi_grid"),
        factors=network.get("factors") if isa else None,
    )
    _describe_classes(config, dataset or DATASETS.get(str(original.get("dataset", "")).lower()))
    _follow_recipe(config, original)
    return config


def _why_not(network: segmenter.Segmenter, classes: int, tensors: dict) -> str:
    """What to try where weights do not fit: the file's number of classes, or a config."""
    wanted = to_state_dict(network)
    shapes = [(tensors[key].shape, wanted[key].shape) for key in wanted.keys() & tensors.keys()]
    clashes = [(theirs, ours) for theirs, ours in shapes if theirs != ours]
    if not wanted.keys() & {key for key in tensors if not key.startswith("backbone.")}:
        return " Weights of a backbone alone (ImageNet's) go into a training's config.init_from."
    if not clashes:
        return ""
    if all(ours == (classes, *theirs[1:]) for theirs, ours in clashes):
        return f" Its classifier has {clashes[0][0][0]} classes: give that number."
    return " Its layers have other widths: give the --config that it was trained with."


def _describe_classes(config: ConfigDict, dataset: str | None) -> None:
    """Puts classes and colours into the config: of the data set, or numbered ones."""
    count = config.model.num_classes
    if dataset:
        facts = catalog.get(dataset)
        if facts.num_classes != count:
            raise UserError(
                f"The network has {count} classes, {dataset} has {facts.num_classes}. Give the "
                "data set it was trained on with --dataset, or none."
            )
        config.data.name = dataset
        return
    config.data.update(
        name="unknown",
        classes=tuple(f"class {index}" for index in range(count)),
        palette=tuple(map(tuple, voc_colours(count))),
        label_map=tuple((index, index) for index in range(count)),
    )


# The original's names of data sets, and ours.
DATASETS = {
    "cityscapes": "cityscapes",
    "ade20k": "ade20k",
    "lip": "lip",
    "pascal_voc": "pascal_voc",
    "pascal_context": "pascal_context",
    "coco_stuff": "coco_stuff",
    "celeba": "celeba_mask",
    "mapillary": "mapillary",
}


def _follow_recipe(config: ConfigDict, original: dict) -> None:
    """Input and test protocol of the original's recipe; the file's own normalisation comes first.

    Its JSONs feed MobileNetV2 and every ResNet alike. Without a data set the backbone decides.
    """
    row = nearest(config.model.backbone)
    row = "resnet101" if row == "mobilenet_v2" else row
    inputs = BACKBONES[row].inputs
    if config.data.name in DATASETS.values():
        dataset = "cityscapes" if config.data.name == "mapillary" else config.data.name
        module = importlib.import_module(f"openseg_jax.recipes.{dataset}")
        recipe = module.recipe("ocr", row)
        inputs = {key: recipe.data[key] for key in inputs}
        config.eval.update(recipe.eval)
    normalize, data = original.get("normalize"), original.get("data") or {}
    if normalize:
        inputs = dict(
            channel_order=str(data.get("input_mode", "BGR")).lower(),
            scale=float(normalize["div_value"]),
            mean=tuple(map(float, normalize["mean"])),
            std=tuple(map(float, normalize["std"])),
        )
    config.data.update(inputs)


def _same(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> bool:
    """Whether every key, dtype, shape and byte agrees."""
    return ours.keys() == theirs.keys() and all(
        ours[key].dtype == theirs[key].dtype
        and ours[key].shape == theirs[key].shape
        and ours[key].tobytes() == theirs[key].tobytes()
        for key in ours
    )


def _facts(source, file, config, report, unchanged, fingerprint) -> dict:
    return {
        "source": source.name,
        "sha256": file.sha256,
        "format": file.format,
        "method": config.model.method,
        "backbone": config.model.backbone,
        "classes": config.model.num_classes,
        "dataset": config.data.name,
        "norm": report.world,
        "keys": len(file.tensors),
        "mapped": len(report.mapped),
        "passengers": list(report.passengers),
        "round_trip": unchanged,
        "golden": certificate.golden_record(config.model),
        "fingerprint": fingerprint,
        "pytorch": certificate.torch_lines(config.model.method),
        "version": __version__,
        "jax": jax.__version__,
    }


def _save(network: segmenter.Segmenter, out: Path, config: ConfigDict, facts: dict) -> None:
    params, stats, _ = segmenter.graphs(network)
    settings = config_lib.to_dict(config)
    with checkpoint.Checkpoints(out) as checkpoints:
        checkpoints.save(0, {"params": params, "stats": stats}, settings, certificate=facts)
    checkpoint.save_config(out, settings)
    origin = network.origin
    safetensors.write(
        out / PASSENGERS,
        origin.passengers,
        {"keys": list(origin.keys), "dtypes": {k: str(v) for k, v in origin.dtypes.items()}},
    )


def _read_origin(folder: Path) -> Origin | None:
    path = folder / PASSENGERS
    if not path.is_file():
        return None
    file = read_file(path)
    dtypes = {key: np.dtype(name) for key, name in file.config["dtypes"].items()}
    return Origin(tuple(file.config["keys"]), dtypes, file.tensors)


def _config_dict(config: ConfigDict) -> dict:
    """What the original's tools, and our own converter, read of a file's `config_dict`."""
    data, model = config.data, config.model
    model_name, backbone = original_names(model)
    described = {
        "model_name": model_name,
        "backbone": backbone,
        "bn_type": "inplace_abn" if model.norm == "inplace_abn" else "torchbn",
    }
    if model.multi_grid:
        described["multi_grid"] = list(model.multi_grid)
    if model.factors:
        described["factors"] = [list(pair) for pair in model.factors]
    names = {ours: theirs for theirs, ours in DATASETS.items()}
    return {
        "dataset": names.get(data.name, data.name),
        "network": described,
        "data": {"num_classes": model.num_classes, "input_mode": data.channel_order.upper()},
        "normalize": {"div_value": data.scale, "mean": list(data.mean), "std": list(data.std)},
    }
