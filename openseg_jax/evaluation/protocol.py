"""What is done to an image between its file and its logits: sizes, scales, windows, flips.

Numbers can only be compared where they were made by the same protocol, so it is one value that
inference follows and that results are stamped with.
"""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np

from openseg_jax.evaluation import modes


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How a network is run; the keys and their meaning are those of `config.eval`."""

    size: tuple[int, ...] = ()
    shorter_side: int = 0
    max_pixels: int = 0
    fit_stride: int = 1
    scales: tuple[float, ...] = (1.0,)
    scale_weights: tuple[float, ...] = ()
    flip: bool = False
    combine: str = "logits"
    window: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    smooth: bool = False

    @classmethod
    def of(cls, settings) -> Protocol:
        """The protocol of `config.eval`."""
        return cls(**{field.name: settings[field.name] for field in dataclasses.fields(cls)})

    def stamp(self) -> dict:
        """What a result says about how it was made."""
        size = "as stored"
        if self.size:
            size = f"{self.size[0]} x {self.size[1]}"
        elif self.shorter_side:
            size = f"shorter side {self.shorter_side}"
        if self.max_pixels:
            size += f", at most {self.max_pixels} pixels"
        stamp = {
            "mode": "sliding window" if self.window else "whole image",
            "input_size": size,
            "fit_stride": self.fit_stride,
            "scales": list(self.scales),
            "scale_weights": list(self.scale_weights or (1.0,) * len(self.scales)),
            "flip": self.flip,
            "combine": f"sum of {self.combine}",
            "resize": "logits to label size, bicubic",
        }
        if self.window:
            stamp["window"] = list(self.window)
            stamp["stride"] = list(self.stride or self.window)
            stamp["window_weights"] = "pyramid" if self.smooth else "equal"
        return stamp


def in_words(stamp: dict) -> str:
    """A result's protocol in a line: data, mode, sizes, scales, dtype."""
    mode = stamp["mode"]
    if "window" in stamp:
        window, stride = ("x".join(map(str, stamp[key])) for key in ("window", "stride"))
        mode += f" of {window} by {stride} with {stamp['window_weights']} weights"
    scales = [
        f"{scale}" if weight == 1 else f"{weight} x {scale}"
        for scale, weight in zip(stamp["scales"], stamp["scale_weights"], strict=True)
    ]
    return (
        f"{stamp['dataset']} {stamp['split']}, {stamp['images']} images, {mode}, "
        f"{stamp['input_size']}, scales {', '.join(scales)}{', flip' if stamp['flip'] else ''}, "
        f"{stamp['combine']}, {stamp['dtype']}"
    )


def input_size(protocol: Protocol, height: int, width: int) -> tuple[int, int]:
    """The (height, width) an image is resized to before anything else."""
    if protocol.size:
        return protocol.size
    if protocol.shorter_side:
        ratio = protocol.shorter_side / min(height, width)
        height, width = round(height * ratio), round(width * ratio)
    if protocol.max_pixels and height * width > protocol.max_pixels:
        ratio = (protocol.max_pixels / (height * width)) ** 0.5
        height, width = max(int(height * ratio), 1), max(int(width * ratio), 1)
    return height, width


def prepare(protocol: Protocol, image: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    """Resizes an image and pads it, right and below, to a multiple of `fit_stride`.

    Args:
        image: `(h, w, 3)` uint8.

    Returns:
        the padded image `(h', w', 3)` uint8, and the (height, width) of its content.
    """
    size = input_size(protocol, *image.shape[:2])
    if size != image.shape[:2]:
        # Bicubic is the original's; it would leave moire where pixels are dropped wholesale.
        shrinks = bool(protocol.max_pixels) and size[0] < image.shape[0]
        interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
        image = cv2.resize(image, size[::-1], interpolation=interpolation)
    below, right = (-n % protocol.fit_stride for n in size)
    if below or right:
        image = np.pad(image, ((0, below), (0, right), (0, 0)))
    return image, size


def apply(
    protocol: Protocol, forward: modes.Forward, flip_pairs: tuple[tuple[int, int], ...] = ()
) -> modes.Forward:
    """The forward of a network -> the forward of this protocol.

    Windows are only laid over images that are not made smaller (`mscrop_test` of the original).
    """
    if protocol.combine == "probabilities":
        forward = modes.probabilities(forward)
    forwards = []
    for scale in protocol.scales:
        each = forward
        if protocol.window and scale >= 1:
            stride = protocol.stride or protocol.window
            each = modes.over_windows(each, protocol.window, stride, protocol.smooth)
        each = modes.at_scale(each, scale)
        forwards.append(modes.with_mirror(each, flip_pairs) if protocol.flip else each)
    return modes.weighted_sum(forwards, protocol.scale_weights or (1.0,) * len(forwards))


def total_weight(protocol: Protocol) -> float:
    """How many logits, or probabilities, the sum of `apply` consists of."""
    total = sum(protocol.scale_weights) if protocol.scale_weights else len(protocol.scales)
    return float(total * (2 if protocol.flip else 1))
