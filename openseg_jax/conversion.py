"""Whole checkpoints from PyTorch to ours and back, with a certificate of what happened."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from openseg_jax import __version__
from openseg_jax import config as config_lib
from openseg_jax.bridge import safetensors
from openseg_jax.bridge.reference import (
    MODELS,
    original_names,
    reference_config,
    reference_outputs,
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
from openseg_jax.training import checkpoint

PASSENGERS = "passengers.safetensors"
GOLDENS = Path(__file__).parent / "goldens.json"
FINGERPRINT_SIZE = (97, 129)

# What the original's recipes feed their backbones; HRNet's are BGR with means ordered as RGB.
CAFFE = dict(
    channel_order="bgr", scale=1.0, mean=(102.9801, 115.9465, 122.7717), std=(1.0, 1.0, 1.0)
)
BGR_WITH_RGB_MEANS = {**config_lib.RGB_IMAGENET, "channel_order": "bgr"}


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
    report = load_state_dict(network, file.tensors)
    unchanged = _same(to_state_dict(network), file.tensors)
    fingerprint = fingerprint_of(network)
    facts = _facts(source, file, config, report, unchanged, fingerprint)
    _save(network, out, config, facts)
    text = certificate(facts)
    (out / "certificate.txt").write_text(text)
    return text


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
        f"with {NORMS[config.model.norm]}"
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
    config.data.update(_normalization(original, config.model.backbone))
    _describe_classes(config, dataset or DATASETS.get(str(original.get("dataset", "")).lower()))
    return config


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


NORMS = {
    "bn": "plain batch norm and ReLU (bn)",
    "inplace_abn": "in-place activated batch norm: |w| + 1e-5, leaky ReLU 0.01 (inplace_abn)",
}
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


def _normalization(original: dict, backbone: str) -> dict:
    """Scale, mean, std and channel order of a file's `config_dict`, else its family's recipe."""
    normalize, data = original.get("normalize"), original.get("data") or {}
    if not normalize:
        return BGR_WITH_RGB_MEANS if backbone.startswith("hrnet") else CAFFE
    return dict(
        channel_order=str(data.get("input_mode", "BGR")).lower(),
        scale=float(normalize["div_value"]),
        mean=tuple(map(float, normalize["mean"])),
        std=tuple(map(float, normalize["std"])),
    )


def _same(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> bool:
    """Whether every key, dtype, shape and byte agrees."""
    return ours.keys() == theirs.keys() and all(
        ours[key].dtype == theirs[key].dtype
        and ours[key].shape == theirs[key].shape
        and ours[key].tobytes() == theirs[key].tobytes()
        for key in ours
    )


def fingerprint_of(network: segmenter.Segmenter) -> list[float]:
    """The first logits, at the centre, of an input that needs no file; see `TORCH_LINES`."""
    height, width = FINGERPRINT_SIZE
    x = np.arange(3 * height * width).reshape(1, 3, height, width) * 7919 % 256
    labels = np.zeros((1, height, width), np.int64) if network.needs_labels else None
    y = reference_outputs(network, (x / 128 - 1).astype(np.float32), labels)[-1]
    return [round(float(v), 5) for v in y[0, :5, y.shape[2] // 2, y.shape[3] // 2]]


TORCH_LINES = """\
import torch
# model = the network as your own code builds it, with this file's weights loaded
model = model.cpu().float().eval()
x = torch.arange(3 * 97 * 129).reshape(1, 3, 97, 129) * 7919 % 256
x = x.float() / 128 - 1
with torch.no_grad():
    y = model(x)
y = y if torch.is_tensor(y) else y[-1]
center = y[0, :5, y.shape[2] // 2, y.shape[3] // 2]
print([round(v, 5) for v in center.tolist()])
"""


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
        "golden": golden_record(config.model),
        "fingerprint": fingerprint,
        "version": __version__,
        "jax": jax.__version__,
    }


def golden_record(model) -> str:
    """What `tests/golden.py --write` recorded of this network and norm, in words.

    Args:
        model: `config.model`.
    """
    if not GOLDENS.is_file():
        return "not recorded"
    prefix = "eval/" + "__".join(original_names(model)) + "__"
    activated = model.norm == "inplace_abn"
    cases = {
        name: case
        for name, case in json.loads(GOLDENS.read_text())["cases"].items()
        if name.startswith(prefix) and name.endswith("__abn") == activated
    }
    if not cases:
        return "not recorded"
    name, case = max(cases.items(), key=lambda item: item[1]["error_over_tolerance"])
    verdict = "passed" if all(case["passed"] for case in cases.values()) else "FAILED"
    return (
        f"{verdict}: {len(cases)} cases, at most {case['error_over_tolerance']} "
        f"of the allowed error in {name} (version {case['version']}, commit {case['commit']})"
    )


def certificate(facts: dict) -> str:
    """The certificate as text."""
    passengers = len(facts["passengers"])
    return f"""\
Converted by openseg_jax {facts["version"]}

file         {facts["source"]} ({facts["format"]})
sha256       {facts["sha256"]}
network      {facts["method"]} on {facts["backbone"]}, {facts["classes"]} classes
data set     {facts["dataset"] or "not known"}
norm         {NORMS[facts["norm"]]}
keys         {facts["keys"]}: {facts["mapped"]} mapped, {passengers} carried, 0 missing, 0 unused
round trip   {"every key, dtype and byte comes back" if facts["round_trip"] else "NOT EXACT"}
goldens      {facts["golden"]}
fingerprint  {facts["fingerprint"]}

The same five numbers from your own PyTorch code, to about 1e-4:

{TORCH_LINES}"""


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
