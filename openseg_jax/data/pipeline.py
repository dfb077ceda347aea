"""From a built data set to batches: TFDS reads, Grain shuffles, augments and batches.

The stream depends on the seed alone: any number of workers or hosts yields the same batches,
and batch `i` can be had without the ones before it, which is what makes resuming exact.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

import grain
import numpy as np
from absl import flags

from openseg_jax.data import boundaries
from openseg_jax.data.augment import augment
from openseg_jax.data.built import Split
from openseg_jax.data.folder import dataset_of
from openseg_jax.errors import UserError


def check_data(config) -> None:
    """Raises UserError unless both splits of a run are there and have labels."""
    dataset = dataset_of(config.data)
    for name in (config.data.train_split, config.data.eval_split):
        if not Split(dataset, config.data.dir, name).labelled:
            raise UserError(
                f"{dataset.name} has no labels for the split {name!r}. Choose another "
                "config.data.train_split or config.data.eval_split."
            )


class TrainingExamples:
    """Random access to a split's examples, with what is computed before augmentation.

    As `Split`, without names; with `data.boundaries` also distance (h, w) uint8 and angle (h, w)
    int16, see `boundaries`.
    """

    def __init__(self, split: Split, boundary_maps: str):
        self.split, self.boundary_maps = split, boundary_maps

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> dict:
        example = self.split[index]
        del example["name"]
        if not self.boundary_maps:
            return example
        if self.boundary_maps == "instances":
            ids = self.split.instances(index)
            regions = boundaries.instance_regions(ids, self.split.dataset.label_map)
            maps = boundaries.distance_direction(regions, min_pixels=0, ignore=None)
        else:
            maps = boundaries.distance_direction(example["label"])
        angle = boundaries.degrees(maps[1]).astype(np.int16)
        return example | {"distance": maps[0], "angle": angle}


class Augment(grain.transforms.RandomMap):
    """One of the TrainingExamples, augmented."""

    def __init__(self, config, flip_pairs):
        self.settings, self.flip_pairs = config.augment, flip_pairs
        self.color = _mean_color(config.data)

    def random_map(self, example: dict, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Draws the augmentation from the record's own generator."""
        return augment(example, rng, self.settings, self.flip_pairs, self.color)


def _mean_color(data) -> tuple[float, float, float]:
    """The RGB colour, 0..255, that normalisation makes zero."""
    mean = [value * data.scale for value in data.mean]
    return tuple(mean if data.channel_order == "rgb" else mean[::-1])


def training_batches(
    config, start: int = 0, process: int = 0, processes: int = 1
) -> Iterator[dict[str, np.ndarray]]:
    """This process's part of the endless stream of training batches, from batch `start` on.

    Yields:
        image (b, h, w, 3) uint8, label (b, h, w) uint8, box (b, 4) and brightness (b,) int32,
        where b is the global batch size over the number of processes; with `data.boundaries`
        also distance (b, h, w) uint8 and angle (b, h, w) int16, see `boundaries`.
    """
    dataset = dataset_of(config.data)
    split = Split(dataset, config.data.dir, config.data.train_split)
    if config.train.batch_size % processes:
        raise UserError(
            f"config.train.batch_size is {config.train.batch_size}: it cannot be divided over "
            f"{processes} processes."
        )
    per_process = config.train.batch_size // processes
    batches = (
        grain.MapDataset.source(TrainingExamples(split, config.data.boundaries))
        .seed(config.seed)
        .shuffle()
        .random_map(Augment(config, dataset.flip_pairs))
        .repeat()[process::processes]
        .batch(per_process, drop_remainder=True)[start:]
    )
    # Grain's worker processes read absl flags, which are unparsed outside absl's app.run.
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    ahead = grain.ReadOptions(num_threads=2, prefetch_buffer_size=_batches_ahead(per_process))
    stream = batches.to_iter_dataset(ahead)
    if config.data.workers:
        stream = stream.mp_prefetch(grain.MultiprocessingOptions(config.data.workers))
    return iter(stream)


def names_of_batch(config, index: int) -> list[str]:
    """The names of the images of the whole training batch `index` (0 is the first).

    Position i is in process `i % processes`, where it is number `i // processes`.
    """
    split = Split(dataset_of(config.data), config.data.dir, config.data.train_split)
    order = grain.MapDataset.source(range(len(split))).seed(config.seed).shuffle().repeat()
    first = index * config.train.batch_size
    where = (order[i] for i in range(first, first + config.train.batch_size))
    return [split.example(i).name for i in where]


def _batches_ahead(batch_size: int) -> int:
    return max(2, 16 // batch_size)


def measured(
    stream: Iterator[dict], batch_size: int, count: int = 8
) -> tuple[Iterator[dict], float]:
    """Times the first batches, before anything else runs; none is lost.

    Returns:
        the stream from its start, and the images/s that the input pipeline makes on its own.
    """
    # Not timed: starting threads or processes, and what they prepared meanwhile.
    first = [next(stream)]
    first += [next(stream) for _ in range(_batches_ahead(len(first[0]["label"])) + 2)]
    start = time.perf_counter()
    first += [next(stream) for _ in range(count)]
    seconds = time.perf_counter() - start
    return itertools.chain(first, stream), count * batch_size / max(seconds, 1e-9)


def evaluation_examples(split: Split, process: int = 0, processes: int = 1) -> Iterator[dict]:
    """This process's share of a split, each example once, decoded ahead by two threads."""
    examples = grain.MapDataset.source(split)[process::processes]
    return iter(examples.to_iter_dataset(grain.ReadOptions(2, 16)))
