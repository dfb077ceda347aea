"""From the files of a source to examples: which image and which label belong together."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from openseg_jax.data.archive import File, list_files
from openseg_jax.data.dataset import Example
from openseg_jax.data.label_files import from_png
from openseg_jax.errors import UserError

Found = Mapping[str, Mapping[str, File]]  # split: {name of the example: file}
Decode = Callable[[bytes, str], np.ndarray]  # bytes and a place for messages -> (h, w) ids
Loads = dict[str, list[Callable[[], Example]]]


class Layout(NamedTuple):
    """How a provider arranges the files of a data set.

    The patterns are regular expressions of the end of a path, from the start of a folder's name,
    with the groups `name` (equal for an image and its label) and `split`.
    """

    image: str
    label: str
    splits: Mapping[str, str]  # what the group `split` holds: our name of the split
    looked_for: str  # for people, where the source holds something else
    decode: Decode = from_png
    instances: str = ""  # 16-bit PNGs of instance ids, where the provider has them


def relaid(splits: Mapping[str, str] | None = None, suffix: str = "") -> Layout:
    """The tree that openseg.pytorch makes of every data set: `train/image`, `train/label`, ...

    Images of `test` lie there directly, or in one folder a city.

    Args:
        splits: folders beside train, val, trainval and test, and our names of these splits.
        suffix: the end of file names that does not count.
    """
    splits = {name: name for name in ("train", "val", "trainval", "test")} | (splits or {})
    names = "|".join(splits)
    file = r"(?P<name>[^/]+?)" + f"(?:{suffix})?" + r"\.(?:png|jpg|jpeg)"
    folder = r"(?:images?/|(?<=test/)(?!label/|instance/)(?:[^/]+/)?)"
    return Layout(
        image=f"(?P<split>{names})/{folder}{file}",
        label=f"(?P<split>{names})/label/{file}",
        instances=f"(?P<split>{names})/instance/{file}",
        splits=splits,
        looked_for="train/image/* with train/label/*.png (also val/), as openseg.pytorch has it",
    )


def read_layouts(
    source: Path,
    title: str,
    layouts: Collection[Layout],
    how_to_get: str,
    looked_for: Iterable[str] = (),
) -> Loads:
    """The splits of the first layout of which the source has labels, or a UserError.

    `looked_for` are lines of that error, for layouts that the caller tried before.
    """
    files = list_files(source)
    for layout in layouts:
        images, labels, instances = (
            find(files, pattern, layout.splits) if pattern else {}
            for pattern in (layout.image, layout.label, layout.instances)
        )
        splits = pair(title, images, labels, layout.decode, instances) if labels else {}
        if splits:
            return splits
    lines = "\n".join(f"  {line}" for line in (*looked_for, *(each.looked_for for each in layouts)))
    raise UserError(
        f"{source} holds no pair of image and label of {title}. Looked for\n{lines}\nin it, its "
        f"folders, and its zip and tar files.\n{how_to_get}"
    )


def find(files: Mapping[str, File], pattern: str, splits: Mapping[str, str] | None = None) -> Found:
    """The files whose path ends as `pattern` says, by its groups `split` and `name`.

    Where two have the same split and name, one outside of archives goes first. Without `splits`
    the pattern needs no group `split`; everything is found as the split "".
    """
    expression = re.compile("(?:.*/)?" + pattern)
    found: dict[str, dict[str, File]] = {name: {} for name in (splits or {"": ""}).values()}
    for path, file in sorted(files.items(), key=lambda item: len(item[1].inside)):
        if match := expression.fullmatch(path):
            split = splits[match["split"]] if splits else ""
            found[split].setdefault(match["name"], file)
    return {split: dict(sorted(named.items())) for split, named in found.items() if named}


def listed(
    lists: Mapping[str, File], named: Mapping[str, File], splits: Mapping[str, str]
) -> dict[str, dict[str, File]]:
    """Sorts files into splits by text files with one name a line.

    Args:
        lists: the text files by the provider's name of the split.
        named: the files by name; names without a file are passed over.
        splits: `{provider's split: ours}`.
    """
    return {
        ours: {name: named[name] for name in sorted(names_in(lists[theirs])) if name in named}
        for theirs, ours in splits.items()
        if theirs in lists
    }


def names_in(file: File) -> list[str]:
    """The names that a list file holds: the first word of each line, without folder and suffix."""
    lines = file.read().decode("utf-8", "replace").splitlines()
    return [Path(line.split()[0]).stem for line in lines if line.strip()]


def pair(
    title: str,
    images: Found,
    labels: Found,
    decode: Decode = from_png,
    instances: Found | None = None,
    unlabelled: Collection[str] = ("test",),
) -> Loads:
    """Examples of all names that have an image and a label; a warning tells of the others.

    Splits in `unlabelled` may lack labels altogether.
    """
    loads: Loads = {}
    for split, named in images.items():
        if split in unlabelled and split not in labels:
            loads[split] = [partial(load, name, image) for name, image in named.items()]
            continue
        label_of, instances_of = labels.get(split, {}), (instances or {}).get(split, {})
        both = [name for name in named if name in label_of]
        tell_lonely(title, split, len(both), set(named) ^ set(label_of))
        if both:
            loads[split] = [
                partial(load, name, named[name], label_of[name], decode, instances_of.get(name))
                for name in both
            ]
    return loads


def tell_lonely(title: str, split: str, paired: int, lonely: set[str]) -> None:
    """Warns of images without label and labels without image, if there are any."""
    if lonely:
        logging.getLogger(__name__).warning(
            "%s, split %s: %d examples; %d more have only an image or only a label (such as %s) "
            "and are left out.",
            *(title, split, paired, len(lonely), ", ".join(sorted(lonely)[:3])),
        )


def load(
    name: str,
    image: File,
    label: File | None = None,
    decode: Decode = from_png,
    instances: File | None = None,
) -> Example:
    """Reads one example."""
    return Example(
        name=name,
        image=image.read(),
        label=decode(label.read(), str(label)) if label else None,
        source=str(label or ""),
        instances=instances.read() if instances else b"",
    )
