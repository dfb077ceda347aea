"""The data sets we know, one module each: `catalog.get("camvid")`.

A module of this package defines `DATASET`, a `openseg_jax.data.dataset.DataSet`. A variant such
as `pascal_context_60` has a module too, and names in `stored_as` the data set whose build it
reads. Nothing here imports TFDS or JAX: prediction needs a palette, not a builder.
"""

from __future__ import annotations

import importlib
import pkgutil

from openseg_jax.data.dataset import DataSet
from openseg_jax.errors import UserError


def names() -> list[str]:
    """The names of all known data sets."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def get(name: str) -> DataSet:
    """The data set of that name, or a UserError listing the known ones."""
    if name not in names():
        raise UserError(f"Unknown data set {name!r}. Known ones: {', '.join(names())}.")
    return importlib.import_module(f"{__name__}.{name}").DATASET
