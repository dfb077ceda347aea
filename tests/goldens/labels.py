"""Label maps: every raw byte to a train id, every class to the byte of a saved prediction."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from goldens import Result, Worst, read_json
from openseg_jax.data import catalog
from openseg_jax.data.dataset import IGNORE

OUR_NAMES = {"celeba": "celeba_mask", "segfix": "cityscapes"}


def results(root: Path, tolerance: dict, wanted: str) -> Iterator[Result]:
    """One case a data set, over all 256 bytes and all classes."""
    allowed = tolerance["misc"]["labels"]
    stored = np.load(root / "misc" / "labels.npz")
    cases = read_json(root / "misc" / "labels.json")["label_list"]
    names = sorted({*cases, *(key.split("_", 1)[1] for key in stored.files)})
    for name in (name for name in names if wanted in name):
        ours = OUR_NAMES.get(name, name)
        missing = {f"train_{name}", f"test_{name}"} - set(stored.files)
        if allowed != "exact" or missing or name not in cases or ours not in catalog.names():
            yield Result(name, float("nan"), "not a case that this checker knows")
        else:
            dataset = catalog.get(ours)
            yield _check(
                name, dataset, cases[name], stored[f"train_{name}"], stored[f"test_{name}"]
            )


def _check(name: str, dataset, case: dict, train: np.ndarray, test: np.ndarray) -> Result:
    worst = Worst(name)
    worst.equal("num_classes", dataset.num_classes, case["num_classes"])
    # The original lets ids through that are no class (such as 200 in LIP), and its scores then
    # leave them out; ours refuses such labels, and ignores them where asked to encode.
    classes = (train >= 0) & (train < case["num_classes"])
    ours = dataset.label_map.encode(np.arange(256, dtype=np.uint8))
    worst.equal("train ids", ours, np.where(classes, train, IGNORE))
    for provider_id, train_id in dataset.label_map.train_ids.items():
        worst.equal(f"known id {provider_id}", train_id != IGNORE, classes[provider_id])
    exported = dataset.label_map.decode(np.arange(len(test), dtype=np.uint8))
    # Where the original writes a byte that it does not read back as that class (the last one of
    # COCO-Stuff becomes 0), it loses the class; ours must lead back instead.
    leads_back = train[test] == np.arange(len(test))
    worst.equal("exported ids", exported[leads_back], test[leads_back])
    worst.equal("exported ids, read back", train[exported], np.arange(len(test)))
    return worst.result()
