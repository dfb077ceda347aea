"""Test-time inference: scales, mirror images, windows, the final resize, SegFix's windows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np

from goldens import Result, Worst, fill, read_json
from openseg_jax.bridge import build_reference_model, load_state_dict
from openseg_jax.evaluation import inference, modes, segfix
from openseg_jax.evaluation.protocol import Protocol, apply
from openseg_jax.models import segmenter

LIP_PAIRS = ((14, 15), (16, 17), (18, 19))
NORMALIZED = SimpleNamespace(channel_order="rgb", scale=1.0, mean=(0.0,) * 3, std=(1.0,) * 3)
FLIPPED = ("ms_test", "ms_test_weighted", "mscrop_test")
KNOWN = (
    *FLIPPED,
    "ms_test_wo_flip",
    "ss_test",
    "ss_test_scale",
    "sscrop_test",
    "sscrop_test_scale",
)


def results(root: Path, tolerance: dict, wanted: str) -> Iterator[Result]:
    """One result a case of `misc/tester.json`, and for every other array of `misc/tester.npz`."""
    document = read_json(root / "misc" / "tester.json")
    stored = dict(np.load(root / "misc" / "tester.npz"))
    allowed = tolerance["misc"]["tester"]
    run = cache(partial(_run, root, document))
    for name in dict.fromkeys(key.removesuffix(".argmax") for key in stored):
        if wanted not in name:
            continue
        worst = Worst(name)
        if name in document["cases"] and (name in KNOWN or name.startswith("segfix_")):
            _compare(worst, name, run(*_way(name, document)), document, stored, allowed)
        elif name in ("segfix_ss_offset", "segfix_sscrop_offset"):
            answer = run(*_way(name, document))
            ours = segfix.decode(answer[..., 1], answer[..., 2:])
            _fraction(worst, name, ours, stored[name], allowed)
        elif name in ("final_logits", "final_label"):
            _final(worst, name, run(*_way("ss_test", document)), document["final"], stored, allowed)
        elif name == "lip_flip":
            _lip(worst, stored[name], allowed["lip_flip_abs"])
        else:
            yield Result(name, float("nan"), "unknown case")
            continue
        yield worst.result()


def _way(name: str, document: dict) -> tuple[str, Protocol]:
    """Which network a case runs, and how."""
    if name.startswith("segfix_"):
        crop = tuple(document["segfix"]["crop"])
        windows = {"window": crop, "stride": tuple(side // 3 for side in crop)}
        return "segfix", Protocol(**windows if "sscrop" in name else {})
    case = document["cases"][name]
    return "segmenter", Protocol(
        scales=tuple(case.get("scales", (case.get("scale", 1.0),))),
        scale_weights=tuple(case.get("weights", ())),
        flip=name in FLIPPED,
        window=tuple(case.get("crop_hw", ())),
    )


def _run(root: Path, document: dict, which: str, protocol: Protocol) -> jax.Array:
    """The answer `(n, h, w, c)` of a network under a protocol."""
    if which == "segfix":
        model, about, seed = "segfix_hrnet", document["segfix"], document["segfix"]["input"]
        forward, weights = _filled(root, document, model, about["backbone"], segfix.make_forward)
    else:
        model, seed = document["model"], document["input"]
        make = inference.make_forward
        forward, weights = _filled(root, document, model, document["backbone"], make)
    images = jnp.asarray(_input(seed).transpose(0, 2, 3, 1))
    return jax.jit(apply(protocol, forward))(weights, images)


def _filled(root: Path, document: dict, model: str, backbone: str, make: Callable):
    """The forward and the generated weights of a network."""
    classes = document["num_classes"]
    network = build_reference_model(model, backbone, classes)
    manifest = root / "manifest" / f"{model}__{backbone}__c{classes}.json"
    entries = read_json(manifest)["entries"]
    salt = document["salt"]
    load_state_dict(network, {key: fill.fill(key, shape, salt) for key, shape, *_ in entries})
    params, stats, graphs = segmenter.graphs(network)
    forward = make(graphs["eval"], NORMALIZED, jnp.dtype("float32"))
    return forward, {"params": params, "stats": stats}


def _input(text: str) -> np.ndarray:
    """The array that `make_input(seed,(n,c,h,w))` stands for."""
    seed, shape = text.removeprefix("make_input(").removesuffix(")").split(",", 1)
    return fill.make_input(int(seed), tuple(int(n) for n in shape.strip("()").split(",")))


def _compare(worst: Worst, name, answer, document, stored, allowed) -> None:
    answer = np.moveaxis(np.asarray(answer), -1, 1)
    if name.startswith("segfix_"):
        answer = answer[:, :2] if name.endswith("_mask") else answer[:, 2:]
    about = document["cases"][name]
    if list(answer.shape) != about["shape"]:
        worst.add(f"shape {answer.shape}, not {about['shape']}", np.inf)
        return
    limit = allowed["max_abs_over_std"] * about["std"]
    worst.close("values", fill.subsample(answer, about["limits"]), stored[name], limit)
    for statistic in ("mean", "std"):
        worst.close(statistic, getattr(answer, statistic)(), about[statistic], limit)
    worst.close("absmax", np.abs(answer).max(), about["absmax"], limit)
    _fraction(worst, "argmax", answer.argmax(1), stored[f"{name}.argmax"], allowed)


def _fraction(worst: Worst, what: str, ours, reference, allowed) -> None:
    ours = np.asarray(ours)
    if ours.shape != reference.shape:
        worst.add(f"{what}: shape {ours.shape}, not {reference.shape}", np.inf)
    else:
        worst.add(what, np.mean(ours != reference) / allowed["argmax_mismatch_fraction"])


def _final(worst: Worst, name: str, answer, about: dict, stored: dict, allowed: dict) -> None:
    """Padding cut off, then the bicubic resize to the label's size."""
    width, height = about["border_size_wh"]
    size = tuple(about["ori_img_size_wh"][::-1])
    logits = np.moveaxis(np.asarray(answer)[0, :height, :width], -1, 0)
    if name == "final_label":
        (label,) = inference.resized_labels(logits, size)
        _fraction(worst, name, label, stored[name], allowed)
        return
    resized = np.stack([inference.resized(plane, size) for plane in logits], -1)
    limit = allowed["max_abs_over_std"] * stored[name].std()
    worst.close(name, fill.subsample(resized, about["limits"]), stored[name], limit)


def _lip(worst: Worst, reference: np.ndarray, allowed: float) -> None:
    """LIP's left and right classes change places; given are logits of images, then mirrored."""
    n = len(reference)
    given = np.moveaxis(fill.make_input(561, (2 * n, *reference.shape[1:])), 1, -1)
    both = np.stack([given[:n], given[n:]], 1).reshape(given.shape)
    forward = modes.with_mirror(lambda weights, images: jnp.asarray(both), LIP_PAIRS)
    ours = 0.5 * np.asarray(forward(None, given[:n, :, :, :3]))
    worst.close("logits", np.moveaxis(ours, -1, 1), reference, allowed)
