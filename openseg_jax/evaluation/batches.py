"""Many images of any sizes: grouped by shape, run on the devices, each answered once."""

from __future__ import annotations

import contextlib
import dataclasses
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np

from openseg_jax.errors import UserError
from openseg_jax.evaluation.ahead import ordered_map
from openseg_jax.evaluation.inference import Inference
from openseg_jax.evaluation.protocol import prepare

MOST_WAITING = 8  # batches of images that may wait for others of their shape


def local_batch_size(wanted: int) -> int:
    """The smallest multiple of the number of local devices that is at least `wanted`.

    0 is the best for these devices: a CPU gains nothing from batches, and would calculate the
    empty places of the last one of each shape.
    """
    wanted = wanted or (1 if jax.default_backend() == "cpu" else 4)
    devices = jax.local_device_count()
    return -(-wanted // devices) * devices


@dataclasses.dataclass
class Prepared:
    """An example on its way: its network input and the sizes to undo it."""

    example: dict
    image: np.ndarray  # (h, w, 3) uint8, padded
    size: tuple[int, int]  # of what is not padding
    wanted: tuple[int, int]  # size of the label map asked for

    @property
    def group(self) -> tuple:
        """Images of one group run together: one program, one kind of result."""
        return self.image.shape, self.size == self.wanted


def predict_all(
    inference: Inference,
    weights: dict,
    items: Iterable[Any],
    batch_size: int,
    use: Callable[[dict, np.ndarray, np.ndarray], Any] | None = None,
    load: Callable[[Any], dict | None] | None = None,
    failed: Callable[[dict, UserError], None] | None = None,
) -> Iterator[Any]:
    """Predicts images of any sizes; each is answered once, in any order.

    Loading, preparing, the final resize and `use` run in threads while the devices work.

    Args:
        items: examples `{"image": (h, w, 3) uint8, ...}`; where there is a "label", the
            prediction has its size, else that of the image.
        use: called with the example, its class ids and their confidence (or None), `(h, w)`
            uint8; its results are what is yielded. By default `(example, ids)`.
        load: makes an example of an item, or None to leave it out.
        failed: called with the examples that the devices have no memory for, which are left
            out; by default that is an error.
    """

    def prepared(item: Any) -> Prepared | None:
        example = load(item) if load else item
        if example is None:
            return None
        image, size = prepare(inference.protocol, example["image"])
        return Prepared(example, image, size, example.get("label", example["image"]).shape[:2])

    def finished(part: tuple) -> Any:
        each, output = part
        ids, confidence = inference.finish(output, each.size, each.wanted)
        return use(each.example, ids, confidence) if use else (each.example, ids)

    def lost(group: list[Prepared], error: UserError) -> None:
        if failed is None:
            raise error
        for each in group:
            failed(each.example, error)

    ready = (each for each in ordered_map(prepared, items) if each is not None)
    batches = batches_by_shape(ready, local_batch_size(batch_size))
    yield from ordered_map(finished, _outputs(inference, weights, batches, lost))


def _outputs(inference: Inference, weights: dict, batches, lost: Callable) -> Iterator[tuple]:
    """Each example with its part of the output; one batch runs ahead of the one fetched."""
    in_flight = deque()
    for group, images, sizes in batches:
        at_size = group[0].size == group[0].wanted
        with _memory_errors(group, lost):
            in_flight.append((group, inference.run(weights, images, sizes, at_size)))
        if len(in_flight) > 1:
            yield from _parts(*in_flight.popleft(), lost)
    while in_flight:
        yield from _parts(*in_flight.popleft(), lost)


def _parts(group: list[Prepared], output, lost: Callable) -> Iterator[tuple]:
    with _memory_errors(group, lost):
        output = jax.device_get(output)
        parts = [jax.tree.map(lambda each, i=i: each[i], output) for i in range(len(group))]
        yield from zip(group, parts, strict=True)


@contextlib.contextmanager
def _memory_errors(group: list[Prepared], lost: Callable):
    """Tells of a batch that the devices have no memory for."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        height, width = group[0].image.shape[:2]
        lost(
            group,
            UserError(
                f"there is not enough memory to run images of {width}x{height} pixels. Use a "
                "smaller batch size, sliding windows (config.eval.window), or reduce images "
                "(config.eval.max_pixels)."
            ),
        )


def batches_by_shape(
    examples: Iterable[Prepared], batch_size: int
) -> Iterator[tuple[list[Prepared], np.ndarray, np.ndarray]]:
    """Groups images of one shape, so that few programs are compiled.

    Yields:
        up to `batch_size` examples, their images `(batch_size, h, w, 3)` and content sizes
        `(batch_size, 2)`; a batch that is not full is filled with zeros, whose results are to
        be dropped.
    """
    waiting: dict[tuple, list[Prepared]] = {}
    for example in examples:
        group = waiting.setdefault(example.group, [])
        group.append(example)
        if len(group) == batch_size:
            yield _filled(waiting.pop(example.group), batch_size)
        elif sum(map(len, waiting.values())) >= MOST_WAITING * batch_size:
            yield _filled(waiting.pop(next(iter(waiting))), batch_size)
    for group in waiting.values():
        yield _filled(group, batch_size)


def _filled(group: list[Prepared], batch_size: int):
    images = np.zeros((batch_size, *group[0].image.shape), np.uint8)
    images[: len(group)] = [example.image for example in group]
    sizes = np.zeros((batch_size, 2), np.int32)
    sizes[: len(group)] = [example.size for example in group]
    return group, images, sizes
