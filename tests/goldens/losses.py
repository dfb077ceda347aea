"""Losses: value, gradient norms and subsampled gradients of `misc/losses.json`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from goldens import Result, UnknownCase, Worst, fill, read_json
from openseg_jax.config import default_config
from openseg_jax.data.dataset import IGNORE
from openseg_jax.training.cross_entropy import cross_entropy
from openseg_jax.training.losses import segmentation_loss
from openseg_jax.training.ohem import ohem_cross_entropy

LIMITS = (9, 8, 9, 9)  # how gradients are subsampled, (n, c, h, w)


def results(root: Path, tolerance: dict, wanted: str) -> Iterator[Result]:
    """One Result a case."""
    golden = read_json(root / "misc" / "losses.json")
    inputs = Inputs(golden["inputs"], golden["num_classes"])
    with np.load(root / "misc" / "losses.npz") as arrays:
        for name, case in golden["cases"].items():
            if wanted in name:
                try:
                    loss = loss_of_case(name, case, golden["ce_weight"])
                    logits, targets = inputs.logits(case["logits"]), inputs.targets(case["target"])
                except UnknownCase as unknown:
                    yield Result(name, float("nan"), str(unknown))
                else:
                    yield check(
                        name, case, arrays, tolerance["misc"]["losses"], loss, logits, targets
                    )


def check(name, case, arrays, allowed, loss, logits, targets) -> Result:
    """Compares one case; where the original is not a number, ours is zero with zero gradient."""
    worst = Worst(name)
    targets = targets or (np.full(logits[0].shape[:3], IGNORE),)
    step = jax.jit(jax.value_and_grad(lambda logits, targets: loss(logits, *targets)))
    value, gradients = step(logits, targets)
    defined = np.isfinite(case["value"])
    reference = case["value"] if defined else 0.0
    worst.close("value", value, reference, allowed["value_rel"] * abs(reference))
    if len(gradients) != len(case["grad_norm"]):
        return Result(
            name, float("inf"), f"{len(case['grad_norm'])} gradients, not {len(gradients)}"
        )
    for i, (gradient, norm) in enumerate(zip(gradients, case["grad_norm"], strict=True)):
        gradient = np.asarray(gradient, np.float64).transpose(0, 3, 1, 2)
        norm = norm if defined else 0.0
        ours = np.linalg.norm(gradient)
        worst.close(f"norm of gradient {i}", ours, norm, allowed["grad_norm_rel"] * norm)
        if defined:
            stored = arrays[f"{name}/grad{i}"]
            limit = allowed["grad_abs_over_absmax"] * np.abs(stored).max()
            worst.close(f"gradient {i}", fill.subsample(gradient, LIMITS), stored, limit)
    return worst.result()


def loss_of_case(name: str, case: dict, class_weights: list[float]) -> Callable:
    """`loss(logits, labels, ...)` of a case; by `segmentation_loss` where a config can say it."""
    weights = tuple(class_weights) if case.get("class_weights") else ()
    reduction = "sum" if name.endswith("_sum") else "mean"
    settings = default_config().loss
    settings.class_weights = weights
    kind = re.match(r"(?:weighted_)?[a-z0-9]+", name)[0]
    if kind == "ce" and case["logits"].startswith("["):
        found = re.search(r"weights=\[(.*?)\]", case["note"])
        factors = [float(f) for f in found[1].split(",")] if found else [1.0, 1.0]
        return lambda logits, labels: sum(
            factor * cross_entropy(each, labels, weights or None)
            for factor, each in zip(factors, logits, strict=True)
        )
    if kind == "ce" and reduction == "sum":
        return lambda logits, labels: cross_entropy(
            logits[0], labels, weights or None, reduction="sum"
        )
    if kind == "ohem" and reduction == "sum":
        return lambda logits, labels: ohem_cross_entropy(
            logits[0], labels, case["thresh"], case["min_kept"], weights or None, reduction="sum"
        )
    names = {
        "ce": "ce",
        "auxce": "ce",
        "ohem": "ohem",
        "auxohem": "ohem",
        "weighted_ohem": "ohem",
        "segfix": "segfix",
    }
    if kind not in names:
        raise UnknownCase(f"a loss called {kind}")
    settings.name = names[kind]
    if "thresh" in case:
        settings.update(ohem_threshold=case["thresh"], ohem_min_kept=case["min_kept"])
    if "aux_weight" in case:
        settings.aux_weight = case["aux_weight"]
    return lambda logits, *targets: segmentation_loss(logits, targets[0], settings, *targets[1:])


class Inputs:
    """Logits and targets by the names that the cases use, from their description in words."""

    def __init__(self, described: dict, num_classes: int):
        self.described, self.classes = described, num_classes

    def logits(self, names: str) -> tuple[jax.Array, ...]:
        """`(A,F)` -> their arrays, (n, h, w, k) each."""
        if names == "(mask,dir)":
            text, height_width = self.described["segfix"], self.described["low_shape"][2:]
            found = re.findall(r"logits = 2\*make_input\((\d+),\((\d+),(\d+)\)\+low hw\)", text)
            shapes = [(int(seed), (int(n), int(c), *height_width)) for seed, n, c in found]
        else:
            shapes = [self._seed_and_shape(each) for each in names.strip("[]()").split(",")]
        if not shapes:
            raise UnknownCase(f"the logits {names}")
        arrays = (2 * fill.make_input(seed, shape).transpose(0, 2, 3, 1) for seed, shape in shapes)
        return tuple(jnp.asarray(array) for array in arrays)

    def _seed_and_shape(self, name: str) -> tuple[int, tuple[int, ...]]:
        found = re.fullmatch(r"seed (\d+) (low|full)", self.described.get(name.strip(), name))
        if not found:
            raise UnknownCase(f"the logits {name}")
        return int(found[1]), tuple(self.described[f"{found[2]}_shape"])

    def targets(self, name: str) -> tuple[np.ndarray, ...]:
        """`y` -> (labels,), with IGNORE for -1; empty where all pixels are ignored."""
        if name == "(y,distance,angle)":
            (labels,) = self.targets("y")
            seed = re.search(r"make_offset_targets\((\d+),", self.described["segfix"])[1]
            distance, angle = fill.make_offset_targets(int(seed), labels.shape)
            return labels, distance, angle.astype(np.int16)
        text = self.described.get(name, "")
        if text == "all -1":
            return ()
        if found := re.fullmatch(r"make_labels\((\d+),\((.*?)\),C\)", text):
            shape = tuple(int(n) for n in found[2].split(","))
            labels = fill.make_labels(int(found[1]), shape, self.classes)
            return (np.where(labels < 0, IGNORE, labels).astype(np.int32),)
        if found := re.fullmatch(r"(\w+) with \[(.*?)\] = -1", text):
            labels = self.targets(found[1])[0].copy()
            labels[tuple(int(n) for n in found[2].split(","))] = IGNORE
            return (labels,)
        raise UnknownCase(f"the target {name}: {text!r}")
