"""What is measured: a network, a mode, a shape; and the data that both frameworks get."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from ml_collections import ConfigDict

from openseg_jax.config import default_config
from openseg_jax.data.dataset import IGNORE

CLASSES = 19
IGNORED_SHARE = 0.05  # of the pixels


@dataclasses.dataclass(frozen=True)
class Case:
    """One row of the table.

    Args:
        method, backbone: as in `config.model`.
        mode: "train" (a whole step) or "eval" (image to logits of its size).
        size: (height, width).
        dtype: of activations; anything but float32 is autocast in PyTorch.
        fused_attention: whether PyTorch uses its attention kernels, or products.
    """

    method: str
    backbone: str
    mode: str
    size: tuple[int, int]
    batch: int
    dtype: str
    fused_attention: bool = True

    def __str__(self) -> str:
        height, width = self.size
        shape = f"{self.batch} x {height}x{width}"
        return f"{self.method}:{self.backbone} {self.mode} {shape} {self.dtype}"


@dataclasses.dataclass
class Program:
    """One side of a comparison.

    Args:
        start: begins one step; it may return before the device has finished.
        wait: returns when the device has finished.
        output: what the last step gave: logits `(n, h, w, k)` in "eval", the loss in "train".
        memory: peak device memory in bytes; None where the device has none of its own.
        facts: numbers about building it, in seconds.
    """

    start: Callable[[], None]
    wait: Callable[[], None]
    output: Callable[[], np.ndarray]
    memory: Callable[[], int | None]
    facts: dict[str, float]


def config_of(case: Case) -> ConfigDict:
    """The training config of a case: the defaults, which are the published recipes' SGD."""
    config = default_config()
    config.dtype = case.dtype
    config.model.update(method=case.method, backbone=case.backbone, num_classes=CLASSES)
    config.train.batch_size = case.batch
    return config


def host_batch(case: Case) -> dict[str, np.ndarray]:
    """A batch as the data pipeline makes them, of noise."""
    rng = np.random.default_rng(0)
    shape = (case.batch, *case.size)
    label = rng.integers(CLASSES, size=shape, dtype=np.uint8)
    label[rng.random(shape) < IGNORED_SHARE] = IGNORE
    return {
        "image": rng.integers(256, size=(*shape, 3), dtype=np.uint8),
        "label": label,
        "brightness": np.zeros(case.batch, np.int32),
        "box": np.tile(np.array([0, 0, *case.size], np.int32), (case.batch, 1)),
    }


def network_input(case: Case) -> np.ndarray:
    """The images of `host_batch` normalised: `(n, h, w, 3)` float32."""
    data = config_of(case).data
    image = host_batch(case)["image"] / data.scale
    return ((image - data.mean) / data.std).astype(np.float32)
