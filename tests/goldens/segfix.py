"""SegFix: refinement, sampling, ground truth, directions and their labels, offsets, windows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

from goldens import Result, Worst, fill, read_json
from goldens.preprocess import compare_directions
from openseg_jax.data import boundaries
from openseg_jax.data.dataset import IGNORE
from openseg_jax.evaluation import directions, modes, segfix

METRICS = {"euc": "euclidean", "taxicab": "taxicab"}


def results(root: Path, tolerance: dict, wanted: str) -> Iterator[Result]:
    """One result an array of `misc/segfix.npz`, and one for each pair of crop starts."""
    document = read_json(root / "misc" / "segfix.json")
    stored = dict(np.load(root / "misc" / "segfix.npz"))
    allowed = tolerance["misc"]["segfix"]
    for name in stored:
        if wanted in name and not _left_out(name):
            worst = Worst(name)
            if not _compare(worst, name, stored, document, allowed):
                yield Result(name, float("nan"), "unknown case")
                continue
            yield worst.result()
    for name, starts in document["crop_starts"].items():
        if wanted in f"crop_starts_{name}":
            yield _crop_starts(f"crop_starts_{name}", starts)


def _left_out(name: str) -> bool:
    """What `not_compared` of the tolerances names: scale 1.5 needs blended ids."""
    return "align_false" in name or "scale1.5" in name or name.startswith("dt_in_")


def _compare(worst: Worst, name: str, stored: dict, document: dict, allowed: dict) -> bool:
    """Adds the comparison of one array; False for one that we do not know."""
    if refined := re.fullmatch(r"align_true_scale(\d+)(_train)?", name):
        ours = _refined(document, stored["offset_hw2"], int(refined[1]), bool(refined[2]))
        worst.equal("label", ours, stored[name])
    elif made := re.fullmatch(r"dt_(\w+)_(euc|taxicab)_k(\d+)_(depth|dirdeg)", name):
        _ground_truth(worst, made, stored, document, allowed)
    elif name in ("label_ids", "encoded", "offset_hw2"):
        ids, encoded, offset = _inputs(document)
        ours = {"label_ids": ids, "encoded": encoded, "offset_hw2": offset}[name]
        worst.equal("input", ours, stored[name])
    elif name == "offset_module_out":
        features, offset = (
            np.moveaxis(array, 1, -1)
            for array in (
                fill.make_input(532, (2, 3, 20, 27)),
                3 * fill.make_input(533, (2, 2, 20, 27)),
            )
        )
        ours = np.moveaxis(np.asarray(segfix.sample(features, offset)), -1, 1)
        worst.close("features", ours, stored[name], allowed["float_abs"])
    elif name == "decode_offset":
        mask, direction = (
            np.moveaxis(fill.make_input(seed, (2, channels, 24, 30)), 1, -1)
            for seed, channels in ((545, 2), (546, 8))
        )
        probability = np.asarray(jax.nn.softmax(mask, -1))[..., 1]
        worst.equal("offset", segfix.decode(probability, direction), stored[name])
    elif name.startswith("dirfn_"):
        return _direction_function(worst, name.removeprefix("dirfn_"), stored, document, allowed)
    else:
        return False
    return True


def _inputs(document: dict) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Label of provider ids, the same of train ids, and offsets."""
    label = fill.make_labels(530, (1, 72, 100), 19)[0]
    ids = np.where(label == -1, IGNORE, np.array(document["inputs"]["label_list"])[label])
    steps = np.concatenate([directions.vectors(8), [(0, 0)]])
    which = fill.bits("off|531", label.size) % np.uint64(9)
    offset = steps[which.astype(int)].reshape(*label.shape, 2)
    return ids, np.where(label == -1, IGNORE, label), offset


def _refined(document: dict, offset: np.ndarray, scale: int, train_ids: bool) -> np.ndarray:
    ids, encoded, _ = _inputs(document)
    return np.asarray(
        segfix.refine((encoded if train_ids else ids).astype(np.uint8), offset, scale)
    )


def _ground_truth(
    worst: Worst, made: re.Match, stored: dict, document: dict, allowed: dict
) -> None:
    which, metric, size, what = made.groups()
    table = np.full(256, IGNORE, np.uint8)
    table[document["inputs"]["label_list"]] = range(len(document["inputs"]["label_list"]))
    label = table[stored[f"dt_in_{which}"]]
    options = {"kernel_size": int(size), "metric": METRICS[metric]}
    depth, direction = boundaries.distance_direction(label, **options)
    if what == "depth":
        worst.equal("distance", depth, stored[made.string])
    else:
        compare_directions(worst, label, direction, stored[made.string], allowed, **options)


def _direction_function(
    worst: Worst, name: str, stored: dict, document: dict, allowed: dict
) -> bool:
    """Functions of the distance, the angle and the label, for each number of directions."""
    distance = fill.make_offset_targets(542, (1, 40, 56))[0][0]
    seg = fill.make_labels(544, (1, 40, 56), 19)[0]
    label = np.where(seg == -1, IGNORE, seg)
    angle = stored["dirfn_a2"]
    level = document["dirfn"]["config"]
    plain, _, count = name.rpartition("_c")
    classes = int(count) if count.isdigit() and plain else 8
    index = directions.direction_class(angle, classes)
    aligned = directions.class_angle(index, classes)
    energy = directions.energy_level(
        distance, level["energy_level_step"], level["num_energy_levels"]
    )
    functions = {
        "mask_label": lambda: directions.boundary_label(distance, label),
        "energy_label": lambda: np.where(label == IGNORE, IGNORE, energy),
        "align_angle": lambda: aligned,
        "align_index": lambda: index,
        "dirlabel": lambda: directions.direction_label(distance, angle, label, classes),
        "offset": lambda: directions.offsets(distance, angle, classes),
        "vector": lambda: directions.unit_vector(aligned),
        "vector_none": lambda: directions.unit_vector(angle),
        "vector_to_label8": lambda: directions.vector_class(directions.unit_vector(angle), 8),
        "label_to_vector8": lambda: np.moveaxis(
            directions.vectors(8)[stored["dirfn_align_index_c8"]], -1, 0
        )[None],
        "a2": lambda: angle,
    }
    key = name if name in functions else plain
    if key not in functions:
        return False
    ours, reference = functions[key](), stored[f"dirfn_{name}"]
    if reference.dtype.kind == "f":
        worst.close(name, ours, reference, allowed["float_abs"])
    elif ours.shape != reference.shape:
        worst.add(f"{name}: shape {ours.shape}, not {reference.shape}", np.inf)
    else:
        ours = np.where(ours == IGNORE, -1, ours.astype(int))
        worst.add("fraction that differs", np.mean(ours != reference) / allowed["dirfn_fraction"])
    return True


def _crop_starts(name: str, starts: dict) -> Result:
    worst = Worst(name)
    size, window = map(int, name.removeprefix("crop_starts_").split("_"))
    strides = {"offset_tester": window // 3, "seg_tester": window}
    for tester, reference in starts.items():
        if tester not in strides:
            return Result(name, float("nan"), f"unknown tester {tester}")
        worst.equal(tester, modes.window_starts(size, window, strides[tester]), reference)
    return worst.result()
