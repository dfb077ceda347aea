"""Pascal-Context with background as a class: the build of `pascal_context`, read otherwise."""

from __future__ import annotations

import dataclasses

from openseg_jax.data.catalog import pascal_context
from openseg_jax.data.dataset import LabelMap

DATASET = dataclasses.replace(
    pascal_context.DATASET,
    name="pascal_context_60",
    title="Pascal-Context (59 classes and background)",
    classes=pascal_context.CLASSES_60,
    palette=pascal_context.PALETTE_60,
    label_map=LabelMap({i: i for i in range(60)}),
    stored_as="pascal_context",
)
