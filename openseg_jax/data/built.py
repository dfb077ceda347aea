"""Reading built data sets: examples by number, and what was noted when they were built."""

from __future__ import annotations

import bisect
import hashlib
import itertools
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from openseg_jax.config import data_dir
from openseg_jax.data import catalog
from openseg_jax.data.dataset import DataSet, Example
from openseg_jax.data.images import decode_image, decode_label
from openseg_jax.errors import UserError


class Split:
    """Random access to one split of a built data set, or to several, one after the other.

    `split[i]` is `{"name": str, "image": (h, w, 3) uint8 RGB, "label": (h, w) uint8 train ids}`.

    Args:
        split: a split's name, else a combination that the data set names, or several joined by
            `+`.
    """

    def __init__(self, dataset: DataSet, configured_dir: str, split: str):
        self.dataset, self.split = dataset, split
        self.folder = built_folder(dataset, data_dir(configured_dir))
        self.parts, self._sources = _open(self.folder, split, dataset.combined_splits)
        self._ends = list(itertools.accumulate(map(len, self._sources)))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> dict:
        record, where = self._record(index)
        label = decode_label(record["label"], where)
        return {
            "name": record["name"].decode(),
            "image": decode_image(record["image"], where),
            "label": self.dataset.label_map.encode(label),
        }

    def example(self, index: int) -> Example:
        """An example as it is stored: the encoded image and the provider's ids."""
        record, where = self._record(index)
        label = decode_label(record["label"], where) if self.labelled else None
        return Example(record["name"].decode(), record["image"], label)

    def instances(self, index: int) -> np.ndarray:
        """The provider's instance ids of an example, `(h, w)` uint16."""
        record, where = self._record(index)
        if not record.get("instances"):
            raise UserError(f"{where}: this data set has no instance ids.")
        return decode_label(record["instances"], where)

    def _record(self, index: int) -> tuple[dict, str]:
        part = bisect.bisect_right(self._ends, index)
        start = self._ends[part - 1] if part else 0
        record = self._sources[part][index - start]
        name = record["name"].decode()
        return record, f"{self.dataset.name} {self.split}, example {name!r} in {self.folder}"

    @property
    def labelled(self) -> bool:
        """Whether this split has labels at all."""
        return not set(self.parts) & set(metadata(self.folder).get("unlabelled_splits", []))

    @property
    def build_hash(self) -> str:
        """Identifies the exact content that was built."""
        content = json.dumps(metadata(self.folder).get("sha256", {}), sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]


def built_folder(dataset: DataSet, root: Path) -> Path:
    """The folder of a built data set under `root`, or a UserError that says how to build it."""
    stored = catalog.get(dataset.stored_as) if dataset.stored_as else dataset
    folder = root / stored.name / stored.version
    if not folder.is_dir():
        what = stored.name if stored.name in catalog.names() else "folder"
        source = " --source FOLDER" if stored.needs_source else ""
        raise UserError(
            f"The data set {dataset.name!r} (version {stored.version}) is not in {root}. Build "
            f"it with\n  openseg data build {what}{source} --out {root}\nor point "
            "config.data.dir or $OPENSEG_DATA at the folder that holds it."
        )
    return folder


def metadata(folder: Path) -> dict:
    """What was noted when a data set was built: classes, palette, pixel counts, checksums, ..."""
    path = folder / "metadata.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def split_sizes(folder: Path) -> dict[str, int]:
    """The number of images in each split of a built data set."""
    import tensorflow_datasets as tfds  # slow to import, and only needed here

    splits = tfds.builder_from_directory(folder).info.splits
    return {name: split.num_examples for name, split in splits.items()}


def _open(folder: Path, split: str, combinations: Mapping[str, tuple[str, ...]]) -> tuple:
    """The names of the splits that `split` stands for, and their sources."""
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(folder)
    there = builder.info.splits
    parts = (split,) if split in there else combinations.get(split) or tuple(split.split("+"))
    for part in parts:
        if part not in there:
            raise UserError(
                f"{folder} has no split {part!r}, only {', '.join(there)}. Set "
                "config.data.train_split or config.data.eval_split, or build it from a full "
                "source."
            )
    skip = tfds.decode.SkipDecoding()
    decoders = {"image": skip, "label": skip}
    return parts, [builder.as_data_source(part, decoders=decoders) for part in parts]
