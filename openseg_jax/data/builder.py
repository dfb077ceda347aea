"""Builds any data set of the catalogue into array_record shards, through TFDS, no TensorFlow.

Images keep their original bytes; labels become one-channel PNGs with the provider's ids, which
are checked here and mapped when read.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from tqdm import tqdm

from openseg_jax import __version__
from openseg_jax.data.dataset import DataSet, Example
from openseg_jax.data.images import decode_image, encode_label
from openseg_jax.errors import UserError

EXAMPLES_PER_SHARD = 256


def build(dataset: DataSet, source: Path | None, out: Path) -> Path:
    """Builds `dataset` from `source` into `out/NAME/VERSION` and returns that folder.

    The folder appears only when complete; a build that was interrupted starts again.
    """
    if dataset.needs_source:
        _check_source(dataset, source)
    target = out / dataset.name / dataset.version
    if target.is_dir():
        return target
    splits = dataset.read(source)
    if not any(splits.values()):
        raise UserError(f"{source} holds no split of {dataset.name}.\n{dataset.how_to_get}")
    for leftover in (out / dataset.name).glob(f"{dataset.version}.incomplete*"):
        shutil.rmtree(leftover)
    logging.getLogger("absl").setLevel(logging.WARNING)
    tfds.disable_progress_bar()
    try:
        builder = _builder_class(dataset, splits)(data_dir=str(out), file_format="array_record")
        builder.download_and_prepare()
    except OSError as error:
        raise UserError(f"Cannot write the data set to {out}: {error}") from error
    return target


def summary(folder: Path) -> str:
    """The number of images in each split of a built data set."""
    splits = tfds.builder_from_directory(folder).info.splits
    return ", ".join(f"{split.num_examples} {name}" for name, split in splits.items())


def _check_source(dataset: DataSet, source: Path | None) -> None:
    if source is None:
        raise UserError(f"Where is {dataset.name}? Give --source.\n{dataset.how_to_get}")
    if not source.exists():
        raise UserError(f"--source {source} does not exist.\n{dataset.how_to_get}")


def _builder_class(dataset: DataSet, splits: dict) -> type:
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
                    }
                ),
                disable_shuffling=True,
                homepage=dataset.homepage or None,
                license=dataset.license,
                citation=dataset.citation,
                metadata=tfds.core.MetadataDict(
                    classes=list(dataset.classes),
                    palette=[list(colour) for colour in dataset.palette],
                    built_with=f"openseg_jax {__version__}",
                    sha256={},
                    unlabelled_splits=[],
                ),
            )

        def _shard_iterators_per_split(self, dl_manager):
            return {
                split: [
                    partial(self._shard, split, loads[start : start + EXAMPLES_PER_SHARD], start)
                    for start in range(0, len(loads), EXAMPLES_PER_SHARD)
                ]
                for split, loads in splits.items()
                if loads
            }

        def _shard(self, split, loads, start):
            digest = hashlib.sha256()
            for index, load in enumerate(
                tqdm(loads, f"{dataset.name} {split} {start}-", unit="image", leave=False)
            ):
                example = load()
                label = _checked_label(dataset, example)
                if example.label is None and split not in self.info.metadata["unlabelled_splits"]:
                    self.info.metadata["unlabelled_splits"].append(split)
                record = {
                    "name": example.name,
                    "image": example.image,
                    "label": encode_label(label),
                }
                digest.update(example.name.encode() + example.image + label.tobytes())
                yield start + index, record
            self.info.metadata["sha256"][f"{split} {start}"] = digest.hexdigest()

    return CatalogBuilder


def _checked_label(dataset: DataSet, example: Example) -> np.ndarray:
    """The example's label, after its image and ids were checked; all void where it has none."""
    image = decode_image(example.image, f"{dataset.name}: the image of {example.name}")
    if example.label is None:
        return np.full(image.shape[:2], 255, np.uint8)
    where = example.source or f"{dataset.name}: the label of {example.name}"
    dataset.label_map.check(example.label, where)
    if example.label.shape != image.shape[:2]:
        raise UserError(
            f"{where}: the label is {example.label.shape[1]}x{example.label.shape[0]} (width x "
            f"height), its image {image.shape[1]}x{image.shape[0]}. They must be of one size."
        )
    return example.label
