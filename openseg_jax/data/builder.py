"""Builds any data set into array_record shards, through TFDS, without TensorFlow.

Images keep their original bytes unless another format is asked for; labels become one-channel
PNGs with the provider's ids, which are checked here and mapped when read.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from tqdm import tqdm

from openseg_jax import __version__
from openseg_jax.data import catalog, records
from openseg_jax.data.built import metadata, split_sizes
from openseg_jax.data.dataset import DataSet
from openseg_jax.data.records import FORMATS, NO_COST, Cost
from openseg_jax.errors import UserError
from openseg_jax.progress import progress

EXAMPLES_PER_SHARD = 256
OWN_FACTS = ("classes", "palette", "label_map", "flip_pairs")  # configs of own data have these


def build(
    dataset: DataSet, source: Path | None, out: Path, reencode: str = "", workers: int = 0
) -> Path:
    """Builds `dataset` from `source` into `out/NAME/VERSION` and returns that folder.

    The folder appears only when complete; a build that was interrupted starts again. One that is
    there stays as it is; UserError if it cannot be of this source.

    Args:
        reencode: a faster image format: raw (uncompressed) or jpeg (loses a little); what it
            costs is in the metadata, see `cost`. Empty: images keep their bytes.
        workers: processes that read and check examples; 0: one a CPU core.
    """
    if reencode and reencode not in FORMATS:
        raise UserError(f"Images cannot be re-encoded as {reencode!r}, only {', '.join(FORMATS)}.")
    if dataset.stored_as:
        dataset = catalog.get(dataset.stored_as)
    if dataset.needs_source:
        _check_source(dataset, source)
    target = place(dataset, out)
    splits = {split: loads for split, loads in dataset.read(source).items() if loads}
    if not splits:
        raise UserError(f"{source} holds no split of {dataset.name}.\n{dataset.how_to_get}")
    if target.is_dir():
        _check_built(target, dataset, splits, reencode)
        return target
    for leftover in (out / dataset.name).glob(f"incomplete.*_{dataset.version}"):  # TFDS' name
        shutil.rmtree(leftover)
    logging.getLogger("absl").setLevel(logging.WARNING)
    tfds.disable_progress_bar()
    count = sum(map(len, splits.values()))
    try:
        with (
            contextlib.redirect_stdout(io.StringIO()),  # TFDS says where it downloads from
            progress(desc=dataset.name, total=count, unit="image", leave=False) as bar,
            tempfile.TemporaryDirectory() as nothing,  # TFDS would make a folder downloads/
        ):
            builder_class = _builder_class(dataset, splits, reencode, workers, bar)
            tfds_builder = builder_class(data_dir=str(out), file_format="array_record")
            tfds_builder.download_and_prepare(download_dir=nothing)
    except OSError as error:
        raise UserError(f"Cannot write the data set to {out}: {error}") from error
    return target


def place(dataset: DataSet, out: Path) -> Path:
    """The folder that `build` makes."""
    stored = catalog.get(dataset.stored_as) if dataset.stored_as else dataset
    return out / stored.name / stored.version


def summary(folder: Path) -> str:
    """The number of images in each split of a built data set, in words."""
    return _counts(split_sizes(folder))


def _counts(sizes: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sizes.items())


def cost(folder: Path) -> str:
    """What another image format cost, in words; empty where images kept their bytes."""
    noted = metadata(folder).get("reencode")
    return f"{noted['format']}: {Cost(*noted['cost'])}" if noted else ""


def _check_built(target: Path, dataset: DataSet, splits: dict, reencode: str) -> None:
    noted, facts = metadata(target), _facts(dataset)
    before = (noted.get("reencode") or {}).get("format", "")
    sizes = {split: len(loads) for split, loads in splits.items()}
    own = dataset.name not in catalog.names()  # the facts of others are not read from the build
    others = [name for name in OWN_FACTS if own and noted.get(name) != facts[name]]
    problems = (
        before != reencode
        and f"with images {before or 'as they were'}, not {reencode or 'as they were'}",
        split_sizes(target) != sizes
        and f"with {summary(target)} images; the source has {_counts(sizes)}",
        others and f"with other {others[0].replace('_', ' ')}",
    )
    for problem in filter(None, problems):
        raise UserError(
            f"{target} is built already, {problem}. Remove that folder to build it again, or give "
            "another --out."
        )


def _check_source(dataset: DataSet, source: Path | None) -> None:
    if source is None:
        raise UserError(f"Where is {dataset.name}? Give --source.\n{dataset.how_to_get}")
    if not source.exists():
        raise UserError(f"--source {source} does not exist.\n{dataset.how_to_get}")


def _builder_class(dataset: DataSet, splits: dict, reencode: str, workers: int, bar: tqdm) -> type:
    """A TFDS builder of that data set's name: TFDS takes the name from the class."""

    class CatalogBuilder(tfds.core.ShardBasedBuilder, skip_registration=True):
        name = dataset.name
        VERSION = tfds.core.Version(dataset.version)
        pkg_dir_path = None

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self,
                description=dataset.title,
                features=tfds.features.FeaturesDict(
                    {
                        "name": tfds.features.Text(),
                        "image": tfds.features.Image(shape=(None, None, 3)),
                        "label": tfds.features.Image(shape=(None, None, 1)),
                        # A PNG of 16 bits, which TFDS' images cannot be; empty where not given.
                        "instances": tfds.features.Text(),
                    }
                ),
                disable_shuffling=True,
                homepage=dataset.homepage or None,
                license=dataset.license,
                citation=dataset.citation,
                metadata=tfds.core.MetadataDict(_facts(dataset)),
            )

        def _shard_iterators_per_split(self, dl_manager):
            return {
                split: _shards(dataset, split, loads, reencode, workers, self.info, bar)
                for split, loads in splits.items()
            }

        def _example_writer(self):
            return _UncompressedShards()

    return CatalogBuilder


class _UncompressedShards:
    """Writes shards whose records are not compressed once more: images are, or shall not be."""

    def write(self, path, examples) -> None:
        """Writes one shard of `(key, serialized example)`."""
        writer = ArrayRecordWriter(os.fspath(path), "group_size:1,uncompressed")
        for _, example in examples:
            writer.write(example)
        writer.close()


def _facts(dataset: DataSet) -> dict:
    return dict(
        classes=list(dataset.classes),
        palette=[list(color) for color in dataset.palette],
        label_map=sorted([int(a), int(b)] for a, b in dataset.label_map.train_ids.items()),
        flip_pairs=[list(pair) for pair in dataset.flip_pairs],
        built_with=f"openseg_jax {__version__}",
        sha256={},  # of what is stored, a shard each
        source_sha256={},  # of names, image bytes and label ids of a split, as they were read
        pixels={},  # of each class, and ignored ones, a split each
        median_size={},  # height and width of the images, a split each
        unlabelled_splits=[],
        reencode=None,
    )


def _shards(dataset, split, loads, reencode, workers, info, bar) -> list:
    """Functions that yield the records of one shard each; they are called in order."""
    stream = records.make_records(dataset, loads, reencode, workers)
    source = hashlib.sha256()
    pixels = np.zeros(dataset.num_classes + 1, np.int64)
    sizes = []

    def shard(start: int, stop: int) -> Iterator[tuple[int, dict]]:
        nonlocal pixels
        stored = hashlib.sha256()
        for index in range(start, stop):
            record = next(stream)
            source.update(record.source_digest.encode())
            stored.update(record.source_digest.encode() + (record.image if reencode else b""))
            pixels += record.pixels
            sizes.append(record.size)
            if not record.labelled and split not in info.metadata["unlabelled_splits"]:
                info.metadata["unlabelled_splits"].append(split)
            if reencode:
                noted = info.metadata["reencode"] or {"cost": NO_COST}
                total = Cost(*noted["cost"]) + record.cost
                info.metadata["reencode"] = {"format": reencode, "cost": list(total)}
            bar.update()
            yield (
                index,
                {
                    "name": record.name,
                    "image": record.image,
                    "label": record.label,
                    "instances": record.instances,
                },
            )
        info.metadata["sha256"][f"{split} {start}"] = stored.hexdigest()
        if stop == len(loads):
            next(stream, None)  # lets its processes end
            info.metadata["source_sha256"][split] = source.hexdigest()
            info.metadata["pixels"][split] = pixels.tolist()
            median = np.median(sizes, axis=0)
            info.metadata["median_size"][split] = [int(side) for side in median]

    starts = range(0, len(loads), EXAMPLES_PER_SHARD)
    return [partial(shard, i, min(i + EXAMPLES_PER_SHARD, len(loads))) for i in starts]
