"""Two training steps: losses, gradients, running statistics, outputs, and what SGD moved.

Losses, outputs and statistics are those of a float32 step. Gradients are calculated in float64
and compared with the original's in float64, as rounding alone flips ReLUs and moves float32
gradients by up to 1e-2, in the original as much as here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from goldens import Result, Worst, fill, read_json
from goldens.eval import compare, filled_network, nhwc
from openseg_jax.bridge.names import network_variables, to_torch
from openseg_jax.compilation import FAST_COMPILE
from openseg_jax.config import default_config
from openseg_jax.data.dataset import IGNORE
from openseg_jax.errors import UserError
from openseg_jax.models import segmenter
from openseg_jax.training import optimizer
from openseg_jax.training.losses import segmentation_loss

LOSSES = {
    "fs_ce_loss": "ce",
    "fs_auxce_loss": "ce",
    "fs_ohemce_loss": "ohem",
    "fs_auxohemce_loss": "ohem",
    "segfix_loss": "segfix",
}


def results(root: Path, tolerance: dict, wanted: str) -> Iterator[Result]:
    """One result a case."""
    for path in sorted((root / "train").glob("*.json")):
        case = read_json(path)
        if wanted in case["name"]:
            try:
                yield _check(root, case, tolerance["train"])
            except UserError as error:
                yield Result(case["name"], float("nan"), str(error))
            jax.clear_caches()


def _check(root: Path, case: dict, tolerance: dict) -> Result:
    worst = Worst(case["name"])
    if case["config"]["loss_type"] not in LOSSES:
        return Result(case["name"], float("nan"), f"unknown loss {case['config']['loss_type']}")
    network = _network(root, case)
    params, stats, graphs = segmenter.graphs(network)
    config, batch = _config(case), _batch(case)
    step = _make_step(graphs["train"], config)
    first, after_one = step(params, stats, batch)
    second, _ = step(**after_one, batch=batch, index=1)
    _losses(worst, [float(first["loss"]), float(second["loss"])], case, tolerance)
    for index, group in enumerate(("backbone", "head")):
        ours = [float(each["rates"][index]) for each in (first, second)]
        theirs = [rates[index] for rates in case["lr"]]
        worst.close(f"lr of the {group}", ours, theirs, 1e-6 * max(theirs))
    with jax.enable_x64(True):
        params64, stats64, batch64 = jax.tree.map(_as_float64, (params, stats, batch))
        exact, moved = _make_step(graphs["train"], config)(params64, stats64, batch64)
        moved = jax.tree.map(lambda a, b: np.asarray(a) - b, moved["params"], params64)
    _gradients(worst, _by_key(network, exact["gradients"]), case, tolerance)
    _updates(worst, _by_key(network, moved), case, tolerance)
    stored = np.load(root / case["file"])
    _statistics(worst, _by_key(network, after_one["stats"]), case, stored, tolerance)
    limits = {"max_abs_over_std": tolerance["outputs_max_abs_over_std"]}
    for name, about in case["tensors"].items():
        output = np.asarray(first["outputs"][int(name.removeprefix("out"))]).transpose(0, 3, 1, 2)
        noise = 10 * about["noise_max"] / about["std"]
        allowed = {"max_abs_over_std": max(limits["max_abs_over_std"], noise)}
        compare(worst, name, output, stored[name], about, allowed)
    return worst.result()


def _network(root: Path, case: dict) -> segmenter.Segmenter:
    config = case["config"]
    name = f"{case['model_name']}__{case['backbone']}__c{case['num_classes']}"
    described = {
        **case,
        "multi_grid": config.get("multi_grid"),
        "factors": config.get("factors"),
        "manifest": case.get("manifest", f"manifest/{name}.json"),
    }
    network = filled_network(root, described)
    for _, module in nnx.iter_modules(network):
        if isinstance(module, nnx.Dropout):
            module.rate = case["dropout_p"]
    return network


def _config(case: dict) -> ConfigDict:
    """Loss, optimiser and schedule of a case."""
    original = case["config"]
    parameters, weights = original["loss_params"], original["loss_weights"] or {}
    config = default_config()
    config.loss.update(
        name=LOSSES[original["loss_type"]],
        aux_weight=weights.get("aux_loss", config.loss.aux_weight),
        class_weights=tuple(parameters.get("ce_weight") or ()),
        ohem_threshold=parameters.get("ohem_thresh", config.loss.ohem_threshold),
        ohem_min_kept=parameters.get("ohem_minkeep", config.loss.ohem_min_kept),
    )
    config.optimizer.update(
        name="sgd",
        learning_rate=original["base_lr"],
        momentum=original["sgd"]["momentum"],
        weight_decay=original["sgd"]["weight_decay"],
        schedule="poly",
    )
    config.train.steps = original["max_iters"]
    return config


def _batch(case: dict) -> dict:
    shape = (case["batch"], *case["hw"])
    labels = fill.make_labels(case["label_seed"], shape, case["num_classes"])
    labels = np.where(labels < 0, IGNORE, labels).astype(np.int32)
    batch = {
        "images": nhwc(fill.make_input(case["input_seed"], (case["batch"], 3, *case["hw"]))),
        "labels": jnp.asarray(labels),
    }
    if case["config"]["loss_type"] == "segfix_loss":
        distance, angle = fill.make_offset_targets(case["label_seed"], shape)
        batch |= {"distance": jnp.asarray(distance), "angle": jnp.asarray(angle, jnp.float32)}
    return batch


def _as_float64(array):
    return np.asarray(array, np.float64) if array.dtype == np.float32 else array


def _make_step(graph, config):
    """The trainer's step, with what it computes on the way left visible."""
    transform = optimizer.direction(config.optimizer)

    @jax.jit
    def step(params, stats, momenta, batch, index):
        def loss_of(params):
            network = nnx.merge(graph, params, stats)
            outputs = network(batch["images"], nnx.Rngs(dropout=0), batch["labels"])
            maps = (batch["distance"], batch["angle"]) if "distance" in batch else ()
            value = segmentation_loss(outputs, batch["labels"], config.loss, *maps)
            return value, (outputs, nnx.to_pure_dict(nnx.state(network, nnx.BatchStat)))

        (value, (outputs, new_stats)), gradients = jax.value_and_grad(loss_of, has_aux=True)(params)
        updates, momenta = transform.update(gradients, momenta, params)
        rates = optimizer.learning_rates(config.optimizer, config.train.steps, index)
        params = optimizer.descend(params, updates, rates)
        seen = {"loss": value, "outputs": outputs, "gradients": gradients, "rates": rates}
        return seen, {"params": params, "stats": new_stats, "momenta": momenta}

    def run(params, stats, batch, momenta=None, index=0):
        momenta = transform.init(params) if momenta is None else momenta
        arguments = (params, stats, momenta, batch, jnp.int32(index))
        return step.lower(*arguments).compile(FAST_COMPILE)(*arguments)

    return run


def _by_key(network: segmenter.Segmenter, tree: dict) -> dict[str, np.ndarray]:
    """Arrays in the structure of the network's parameters or statistics, by PyTorch's keys."""
    flat = {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    }
    keys = {}
    variables = network_variables(network, network.norm)
    paths = nnx.to_flat_state(nnx.state(network, (nnx.Param, nnx.BatchStat)))
    for key, (path, _) in zip(variables, paths, strict=True):
        name = ".".join(map(str, path))
        if name in flat:
            keys[key] = to_torch(np.asarray(flat[name], np.float64))
    return keys


def _losses(worst: Worst, ours: list[float], case: dict, tolerance: dict) -> None:
    for index, value in enumerate(ours):
        reference, exact = case["loss"][index], case["loss_f64"][index]
        relative = tolerance[f"loss_step{index + 1}_rel"]
        allowed = max(relative * abs(exact), 10 * abs(reference - exact))
        worst.close(f"loss of step {index + 1}", value, exact, allowed)


def _gradients(worst: Worst, ours: dict, case: dict, tolerance: dict) -> None:
    exact_norms = {k: v for k, v in case["grad_norm_f64"].items() if v is not None}
    floor = tolerance["grad_floor_rel_of_largest"] * max(exact_norms.values())
    errors = []
    if ours.keys() != case["grad_norm"].keys():
        odd = sorted(ours.keys() ^ case["grad_norm"].keys())
        worst.add(f"parameters differ: {', '.join(odd[:3])}", np.inf)
        return
    for key, reference in case["grad_norm"].items():
        gradient = ours[key]
        if reference is None:
            worst.add(f"{key} has a gradient", 0.0 if not gradient.any() else np.inf)
            continue
        exact = exact_norms[key]
        if exact < floor:
            continue
        noise = abs(reference - exact) / exact
        error = abs(np.linalg.norm(gradient) - exact) / exact
        errors.append(error)
        allowed = max(tolerance["grad_norm_rel_per_key"], 10 * noise)
        worst.add(f"gradient norm of {key}", error / allowed)
        projection = (gradient * fill.direction(key, gradient.shape)).sum()
        exact_projection = case["grad_proj_f64"][key]
        noise = abs(case["grad_proj"][key] - exact_projection) / exact
        allowed = max(tolerance["grad_proj_abs_over_grad_norm"], 10 * noise)
        worst.add(
            f"gradient projection of {key}", abs(projection - exact_projection) / exact / allowed
        )
    noises = [abs(case["grad_norm"][k] - v) / v for k, v in exact_norms.items() if v >= floor]
    allowed = max(tolerance["grad_norm_rel_median"], 10 * float(np.median(noises)))
    worst.add("median of the gradient norms", float(np.median(errors)) / allowed)


def _updates(worst: Worst, moved: dict, case: dict, tolerance: dict) -> None:
    """What the first step of SGD moved; that of the second is chaotic and not compared."""
    for key, reference in case["update_norm_step1"].items():
        if case["grad_norm"][key] is not None and reference:  # else PyTorch skips its decay, too
            error = abs(np.linalg.norm(moved[key]) - reference) / reference
            worst.add(f"update of {key}", error / tolerance["grad_norm_rel_per_key"])


def _statistics(worst: Worst, ours: dict, case: dict, stored, tolerance: dict) -> None:
    for key, reference in case["bn_norms"].items():
        if key in ours:
            norm = np.linalg.norm(ours[key])
            worst.close(key, norm, reference, tolerance["bn_running_rel"] * reference)
        elif not key.endswith("num_batches_tracked"):
            worst.add(f"{key} is not in the network", np.inf)
    for name in stored.files:
        key = name.removeprefix("bn/")
        if name.startswith("bn/") and key in ours:
            scale = np.abs(stored[name]).max()
            worst.close(key, ours[key], stored[name], tolerance["bn_running_rel"] * scale)
