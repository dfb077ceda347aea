"""Ground truth made from labels: edges, Mapillary as Cityscapes, distances and directions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from goldens import Result, Worst, fill, read_json
from openseg_jax.data import boundaries
from openseg_jax.data.catalog import cityscapes, mapillary_as_cityscapes
from openseg_jax.data.dataset import IGNORE


def results(root: Path, tolerance: dict, wanted: str) -> Iterator[Result]:
    """One result an array of `misc/preprocess.npz`."""
    allowed = tolerance["misc"]
    names = read_json(root / "misc" / "preprocess.json")["mapillary_names"]
    reference = np.load(root / "misc" / "preprocess.npz")
    for name in reference.files:
        if wanted not in name:
            continue
        worst = Worst(name)
        if name.startswith("edge_w"):
            edge = boundaries.edges(labels(600, 6, 13, -1, IGNORE), int(name[6:])) * np.uint8(255)
            worst.equal("edges", edge, reference[name])
        elif name == "mapillary_to_cityscapes":
            worst.equal("ids", mapillary_ids(names), reference[name])
        elif name == "ade_depth":
            worst.equal("distance", ade_maps()[0], reference[name])
        elif name == "ade_dirdeg":
            label, direction = ade_label(), ade_maps()[1]
            compare_directions(worst, label, direction, reference[name], allowed["segfix"])
        else:
            yield Result(name, float("nan"), "unknown case")
            continue
        yield worst.result()


def labels(seed: int, classes: int, cell: int, void: int, replacement: int) -> np.ndarray:
    """The generator's 64x90 label map, with `void` replaced."""
    label = fill.make_labels(seed, (1, 64, 90), classes, cell=cell)[0]
    return np.where(label == void, replacement, label)


def ade_label() -> np.ndarray:
    """ADE20K's train ids of the case: stored ids 17 i + 1 less one, stored 0 ignored."""
    label = labels(601, 8, 16, -1, IGNORE)
    return np.where(label == IGNORE, IGNORE, 17 * label)


def ade_maps() -> tuple[np.ndarray, np.ndarray]:
    """Distance and direction of that label."""
    return boundaries.distance_direction(ade_label())


def mapillary_ids(names: list[str]) -> np.ndarray:
    """The Cityscapes id of each class name of Mapillary; IGNORE where it has none."""
    city = list(cityscapes.CLASSES)
    train_ids = {
        name: city.index(city_class)
        for city_class, known in mapillary_as_cityscapes.NAMES.items()
        for name in known
    }
    ids = [train_ids.get(name, IGNORE) for name in names]
    decoded = cityscapes.DATASET.label_map.decode(np.array(ids, np.uint8))
    return np.where(np.array(ids) == IGNORE, IGNORE, decoded)


def compare_directions(
    worst: Worst,
    label: np.ndarray,
    ours: np.ndarray,
    reference: np.ndarray,
    tolerance: dict,
    **options,
) -> None:
    """Applies the rule `dir_deg` of the tolerances; directions are modulo 180.

    Args:
        label: (h, w) ids of the regions; `options` are those of `distance_direction`.
    """
    if ours.shape != reference.shape:
        worst.add(f"shape {ours.shape}, not {reference.shape}", np.inf)
        return
    difference = np.abs(ours.astype(int) - reference)
    difference = np.minimum(difference, 180 - difference)
    rule = numbers(tolerance["dir_deg"]["rule"])
    worst.add("fraction that differs", np.mean(difference > 0) / rule[0])
    worst.add("fraction that differs by more than 1", np.mean(difference > 1) / rule[1])
    sure = sure_directions(label, **options)
    worst.add("where rounding cannot matter", np.inf if difference[sure].any() else 0.0)


def numbers(rule: str) -> tuple[float, float]:
    """The two allowed fractions in the sentence of the tolerance file."""
    return tuple(float(part.split()[0].rstrip(",;")) for part in rule.split("<= ")[1:])


def sure_directions(
    label: np.ndarray, kernel_size: int = 5, metric: str = "euclidean"
) -> np.ndarray:
    """(h, w) bool: a gradient above 1e-3, and an angle that truncation cannot push over a step."""
    sure = np.zeros(label.shape, bool)
    for region_id in set(np.unique(label)) - {IGNORE}:
        region = label == region_id
        distance = boundaries.region_distance(region, metric)
        down, right = boundaries.distance_gradient(distance, kernel_size)
        half = (np.degrees(np.arctan2(down, right)) + 180) / 2
        clear = np.abs(half - np.rint(half)) > 1e-3
        sure |= region & (np.hypot(down, right) > 1e-3) & clear
    return sure
