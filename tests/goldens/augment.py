"""Every transform with given parameters, the training sequence, normalisation, collation."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from goldens import Result, Worst, fill, read_json
from openseg_jax import preprocessing
from openseg_jax.config import default_config
from openseg_jax.data import collate, transforms
from openseg_jax.data.augment import augment
from openseg_jax.data.dataset import IGNORE


def results(root: Path, tolerance: dict, wanted: str) -> Iterator[Result]:
    """One result a case of `misc/augment.json`."""
    allowed = tolerance["misc"]["augment"]
    stored = np.load(root / "misc" / "augment.npz")
    for name, case in read_json(root / "misc" / "augment.json")["cases"].items():
        if wanted not in name:
            continue
        reference = {
            key.partition("/")[2]: stored[key]
            for key in stored.files
            if key.partition("/")[0] == name
        }
        worst = Worst(name)
        if name.startswith("normalize"):
            ours = normalized(case)
            worst.close("image", ours, reference[""], allowed["normalize_abs"])
        elif name.startswith("collate"):
            compare_batch(worst, case, reference, allowed)
        else:
            ours = transformed(name, case)
            if ours is None:
                yield Result(name, float("nan"), "unknown case")
                continue
            compare_example(worst, name, ours, reference, allowed)
        yield worst.result()


def example() -> transforms.Example:
    """The generator's example; the original's images are BGR, ours RGB."""
    label = fill.make_labels(581, (1, 60, 84), 20, cell=5)[0]
    distance, angle = (array[0] for array in fill.make_offset_targets(582, (1, 60, 84)))
    return {
        "image": np.ascontiguousarray(fill.make_image(580, 60, 84)[..., ::-1]),
        "label": np.where(label < 0, IGNORE, label).astype(np.uint8),
        "distance": distance.astype(np.uint8),
        "angle": angle.astype(np.int16),
    }


def transformed(name: str, case: dict) -> transforms.Example | None:
    """Our result of a transform; the parameters tell which one it is."""
    given = example()
    size = given["image"].shape[:2]
    if name == "pipeline":
        return training_sequence(given, case)
    if "scale" in case:
        limits = case["scale"], case["aspect"], case.get("max_side_bound", 0)
        return transforms.resize(given, transforms.scaled_size(size, *limits))
    if "target_wh" in case:
        return transforms.resize(given, tuple(case["target_wh"][::-1]))
    if "min_side" in case or "max_side" in case:
        keys = ("min_side", "max_side", "max_side_bound")
        sides = (case.get(key, 0) for key in keys)
        return transforms.resize(given, transforms.side_size(size, *sides))
    if name == "resize_bound":
        bounds = [int(number) for number in case["note"].split("[")[1].strip("]").split(",")]
        factor = transforms.bound_scale(size, bounds)
        return transforms.resize(given, transforms.scaled_size(size, factor))
    if "crop_wh" in case:
        return cropped(given, case)
    if name.startswith("hflip"):
        return transforms.flip(given, tuple(case.get("swap_pair", ())))
    if "pad_lurd" in case:
        return transforms.pad(given, *case["pad_lurd"], tuple(case["mean"][::-1]))
    if "degree" in case:
        # Where the image does not reach, the case has the mean of its neighbours in the file.
        mean = tuple(case.get("mean", (103, 116, 123))[::-1])
        return transforms.rotate(given, case["degree"], mean, blend_labels=True)
    return recolored(given, name, case)


def cropped(given: transforms.Example, case: dict) -> transforms.Example:
    """The cases of cropping."""
    height, width = given["image"].shape[:2]
    window = min(case["crop_wh"][1], height), min(case["crop_wh"][0], width)
    if "grid" in case:
        grid, cell = tuple(case["grid"][::-1]), tuple(case["cell_xy"][::-1])
        top, left = transforms.grid_position((height, width), window, grid, cell)
    elif "left_top" in case:
        left, top = case["left_top"]
    else:
        top, left = transforms.center_position((height, width), window)
    return transforms.crop(given, top, left, window)


def recolored(given: transforms.Example, name: str, case: dict) -> transforms.Example | None:
    """The cases of colour, or None where there is no such."""
    image = given["image"]
    kind = name.split("_")[0]
    if kind == "brightness":
        image = transforms.brightness(image, case["shift"])
    elif kind == "contrast":
        image = transforms.contrast(image, case["factor"])
    elif kind == "saturation":
        image = transforms.saturation(image, case["factor"])
    elif kind == "hue":
        image = transforms.hue(image, case["delta"])
    elif kind == "perm":
        bgr = transforms.permute_channels(image[..., ::-1], tuple(case["perm"]))
        image = bgr[..., ::-1]
    else:
        return None
    return given | {"image": image}


class Scripted:
    """A generator of random numbers that were written down."""

    def __init__(self, case: dict):
        self.reals = [case["scale"], case["aspect"]]
        self.integers_left = [*case["left_top"], case["brightness"]]
        self.flip = case["flip"]

    def uniform(self, low: float, high: float) -> float:
        """The next real number."""
        value = self.reals.pop(0)
        assert low <= value <= high, f"{value} was drawn from {low}..{high}"
        return value

    def integers(self, low: int, high: int, endpoint: bool) -> int:
        """The next integer."""
        value = self.integers_left.pop(0)
        assert endpoint and low <= value <= high, f"{value} was drawn from {low}..{high}"
        return value

    def random(self) -> float:
        """Whether to flip."""
        return 0.0 if self.flip else 0.999


def training_sequence(given: transforms.Example, case: dict) -> transforms.Example:
    """Our training pipeline, on the host and the device, with the draws of the case."""
    settings = default_config().augment
    width, height = case["crop_wh"]
    steps = {"random_hflip": "flip", "random_crop": "crop", "random_brightness": "brightness"}
    settings.update(
        steps=tuple(steps.get(step, step) for step in case["seq"]),
        aspect=(0.9, 1.1),
        crop=(height, width),
        whole_resize=True,
    )
    ours = augment(given, Scripted(case), settings)
    data = ConfigDict(dict(channel_order="rgb", scale=1.0, mean=(0.0,) * 3, std=(1.0,) * 3))
    batch = (ours["image"][None], data, jnp.dtype("float32"), jnp.asarray(ours["brightness"])[None])
    image = np.asarray(preprocessing.normalize(*batch, jnp.asarray(ours["box"])[None]))[0]
    return {"image": image.astype(np.uint8), "label": ours["label"]}


def compare_example(
    worst: Worst, name: str, ours: transforms.Example, reference: dict, allowed: dict
) -> None:
    """Compares all arrays that are stored."""
    for key, expected in reference.items():
        if key == "img":
            image = ours["image"][..., ::-1]
            if name == "rotate":
                worst.close("image", image, expected, allowed["rotate"]["image_abs"])
                continue
            worst.close("image", image, expected, allowed["image_abs"])
            if image.shape == expected.shape:
                differing = np.mean(image != expected)
                worst.add("fraction of the image", differing / allowed["image_fraction_differing"])
        elif key == "labelmap" and name == "rotate":
            worst.close("label", ours["label"], expected, allowed["rotate"]["label_abs"])
        else:
            known = {"labelmap": "label", "distance_map": "distance", "angle_map": "angle"}
            worst.equal(key, ours[known[key]], expected)


def normalized(case: dict) -> np.ndarray:
    """The first 12x16 pixels, normalised as (3, 12, 16) BGR."""
    data = ConfigDict(
        dict(
            channel_order="bgr",
            scale=case["div_value"],
            mean=tuple(case["mean"]),
            std=tuple(case["std"]),
        )
    )
    image = example()["image"][None]
    return np.asarray(preprocessing.normalize(image, data, jnp.dtype("float32")))[
        0, :12, :16
    ].transpose(2, 0, 1)


class Positions:
    """The padding draws of a case, left and up of each image in turn."""

    def __init__(self, draws: list[int]):
        self.draws = list(draws)

    def integers(self, low: int, high: int, endpoint: bool) -> int:
        """The next position."""
        value = self.draws.pop(0)
        assert endpoint and low <= value <= high, f"{value} was drawn from {low}..{high}"
        return value


def compare_batch(worst: Worst, case: dict, reference: dict, allowed: dict) -> None:
    """Aligns and pads the three images of a case as one batch."""
    options = case["trans"]
    given = []
    for k, (height, width) in enumerate(((40, 50), (33, 64), (48, 64))):
        image = fill.make_input(590 + k, (3, height, width)).transpose(1, 2, 0)
        label = fill.make_labels(590 + k, (1, height, width), 19)[0]
        given.append({"image": image, "label": label})
    if options["size_mode"] == "fix_size":
        sizes = [tuple(options["input_size"][::-1])]
    else:
        sizes = [one["label"].shape for one in given]
    size = collate.batch_size(sizes, options.get("fit_stride", 1))
    align = {"only_pad": "pad", "only_scale": "scale"}.get(
        options["align_method"], options["align_method"]
    )
    pad = options.get("pad_mode", "random").removeprefix("pad_")
    draws = Positions(case["randint_left_up"])
    aligned = [collate.align(one, size, align) for one in given]
    borders = [list(one["label"].shape[::-1]) for one in aligned]
    placed = [collate.place(one, size, pad, draws, {"label": -1})[0] for one in aligned]
    image = np.stack([one["image"] for one in placed]).transpose(0, 3, 1, 2)
    worst.equal("shape", image.shape, case["img_shape"])
    worst.equal("border", borders, case["border"])
    label = np.stack([one["label"] for one in placed])
    worst.equal("label", label, reference["labelmap"])
    if list(image.shape) != case["img_shape"]:
        return
    part = fill.subsample(image, case["limits"])
    worst.close("image", part, reference["img"], allowed["collate_image_abs"])
    exact = image.astype(np.float64)
    for key, total in (("img_sum", exact.sum()), ("img_abs_sum", np.abs(exact).sum())):
        worst.close(key, total, case[key], allowed["collate_sums_rel"] * abs(case[key]))
