"""From a built data set to batches: TFDS reads, Grain shuffles, augments and batches.

The stream depends on the seed alone: any number of workers or hosts yields the same batches,
and batch `i` can be had without the ones before it, which is what makes resuming exact.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path

import grain
import numpy as np
from absl import flags

from openseg_jax.config import data_dir
from openseg_jax.data import catalog, transforms
from openseg_jax.data.dataset import DataSet
from openseg_jax.data.images import decode_image, decode_label
from openseg_jax.errors import UserError


class Split:
    """Random access to one split of a built data set.

    `split[i]` is `{"name": str, "image": (h, w, 3) uint8 RGB, "label": (h, w) uint8 train ids}`.
    """

    def __init__(self, dataset: DataSet, configured_dir: str, split: str):
        self.dataset, self.split = dataset, split
        self.folder = built_folder(dataset, data_dir(configured_dir))
        self._source = _open(self.folder, split)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict:
        record = self._source[index]
        name = record["name"].decode()
        where = f"{self.dataset.name} {self.split}, example {name!r} in {self.folder}"
        label = decode_label(record["label"], where)
        return {
            "name": name,
            "image": decode_image(record["image"], where),
            "label": self.dataset.label_map.encode(label),
        }

    @property
    def labelled(self) -> bool:
        """Whether this split has labels at all."""
        return self.split not in _metadata(self.folder).get("unlabelled_splits", [])

    @property
    def build_hash(self) -> str:
        """Identifies the exact content that was built."""
        content = json.dumps(_metadata(self.folder).get("sha256", {}), sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]


def check_data(config) -> None:
    """Raises UserError unless both splits of a run are there and have labels."""
    dataset = catalog.get(config.data.name)
    for name in (config.data.train_split, config.data.eval_split):
        if not Split(dataset, config.data.dir, name).labelled:
            raise UserError(
                f"{dataset.name} has no labels for the split {name!r}. Choose another "
                "config.data.train_split or config.data.eval_split."
            )


def built_folder(dataset: DataSet, root: Path) -> Path:
    """The folder of a built data set under `root`, or a UserError that says how to build it."""
    folder = root / dataset.name / dataset.version
    if not folder.is_dir():
        source = " --source FOLDER" if dataset.needs_source else ""
        raise UserError(
            f"The data set {dataset.name!r} (version {dataset.version}) is not in {root}. Build "
            f"it with\n  openseg data build {dataset.name}{source} --out {root}\nor point "
            "config.data.dir or $OPENSEG_DATA at the folder that holds it."
        )
    return folder


def _metadata(folder: Path) -> dict:
    path = folder / "metadata.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def _open(folder: Path, split: str):
    import tensorflow_datasets as tfds  # slow to import, and only needed here

    builder = tfds.builder_from_directory(folder)
    if split not in builder.info.splits:
        raise UserError(
            f"{folder} has no split {split!r}, only {', '.join(builder.info.splits)}. Set "
            "config.data.train_split or config.data.eval_split, or build it from a full source."
        )
    skip = tfds.decode.SkipDecoding()
    return builder.as_data_source(split, decoders={"image": skip, "label": skip})


class Augment(grain.transforms.RandomMap):
    """One record of a Split -> one training example."""

    def __init__(self, settings, flip_pairs):
        self.settings, self.flip_pairs = settings, flip_pairs

    def random_map(self, record: dict, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Draws the augmentation from the record's own generator."""
        return transforms.augment(
            record["image"], record["label"], rng, self.settings, self.flip_pairs
        )


def training_batches(
    config, start: int = 0, process: int = 0, processes: int = 1
) -> Iterator[dict[str, np.ndarray]]:
    """This process's part of the endless stream of training batches, from batch `start` on.

    Yields:
        image (b, h, w, 3) uint8, label (b, h, w) uint8, box (b, 4) and brightness (b,) int32,
        where b is the global batch size over the number of processes.
    """
    dataset = catalog.get(config.data.name)
    split = Split(dataset, config.data.dir, config.data.train_split)
    if config.train.batch_size % processes:
        raise UserError(
            f"config.train.batch_size is {config.train.batch_size}: it cannot be divided over "
            f"{processes} processes."
        )
    batches = (
        grain.MapDataset.source(split)
        .seed(config.seed)
        .shuffle()
        .random_map(Augment(config.augment, dataset.flip_pairs))
        .repeat()[process::processes]
        .batch(config.train.batch_size // processes)[start:]
    )
    # Grain's worker processes read absl flags, which are unparsed outside absl's app.run.
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    per_batch = config.train.batch_size // processes
    ahead = grain.ReadOptions(num_threads=2, prefetch_buffer_size=_batches_ahead(per_batch))
    stream = batches.to_iter_dataset(ahead)
    if config.data.workers:
        stream = stream.mp_prefetch(grain.MultiprocessingOptions(config.data.workers))
    return iter(stream)


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
