"""The certificate of a conversion: what the file was, and that nothing was lost on the way."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from openseg_jax.bridge.reference import original_names, reference_outputs
from openseg_jax.models import segmenter

GOLDENS = Path(__file__).parent / "goldens.json"
FINGERPRINT_SIZE = (97, 129)
NORMS = {
    "bn": "plain batch norm and ReLU (bn)",
    "inplace_abn": "in-place activated batch norm: |w| + 1e-5, leaky ReLU 0.01 (inplace_abn)",
}

TORCH_LINES = """\
import torch
# model = the network as your own code builds it, with this file's weights loaded
model = model.cpu().float().eval()
x = torch.arange(3 * 97 * 129).reshape(1, 3, 97, 129) * 7919 % 256
x = x.float() / 128 - 1
with torch.no_grad():
    y = model(x)
y = y if torch.is_tensor(y) else y[-1]
center = y[0, :5, y.shape[2] // 2, y.shape[3] // 2]
print([round(v, 5) for v in center.tolist()])
"""


def torch_lines(method: str) -> str:
    """The lines of PyTorch that print the fingerprint; `ideal_*` networks are told labels."""
    if not method.startswith("ideal_"):
        return TORCH_LINES
    labels = "torch.zeros(1, 97, 129, dtype=torch.long)"
    return TORCH_LINES.replace("y = model(x)", f"y = model(x, {labels})")


def fingerprint_of(network: segmenter.Segmenter) -> list[float]:
    """The first logits, at the centre, of an input that needs no file; see `TORCH_LINES`."""
    height, width = FINGERPRINT_SIZE
    x = np.arange(3 * height * width).reshape(1, 3, height, width) * 7919 % 256
    labels = np.zeros((1, height, width), np.int64) if network.needs_labels else None
    y = reference_outputs(network, (x / 128 - 1).astype(np.float32), labels)[-1]
    return [round(float(v), 5) for v in y[0, :5, y.shape[2] // 2, y.shape[3] // 2]]


def golden_record(model) -> str:
    """What `tests/golden.py --write` recorded of this network and norm, in words.

    Args:
        model: `config.model`.
    """
    if not GOLDENS.is_file():
        return "not recorded"
    prefix = "eval/" + "__".join(original_names(model)) + "__"
    activated = model.norm == "inplace_abn"
    cases = {
        name: case
        for name, case in json.loads(GOLDENS.read_text())["cases"].items()
        if name.startswith(prefix) and name.endswith("__abn") == activated
    }
    if not cases:
        return "not recorded"
    name, case = max(cases.items(), key=lambda item: item[1]["error_over_tolerance"])
    verdict = "passed" if all(case["passed"] for case in cases.values()) else "FAILED"
    return (
        f"{verdict}: {len(cases)} cases, at most {case['error_over_tolerance']} "
        f"of the allowed error in {name} (version {case['version']}, commit {case['commit']})"
    )


def text(facts: dict) -> str:
    """The certificate for people, of the facts that `conversion` collects."""
    passengers = len(facts["passengers"])
    return f"""\
Converted by openseg_jax {facts["version"]}

file         {facts["source"]} ({facts["format"]})
sha256       {facts["sha256"]}
network      {facts["method"]} on {facts["backbone"]}, {facts["classes"]} classes
data set     {facts["dataset"] or "not known"}
norm         {NORMS[facts["norm"]]}
keys         {facts["keys"]}: {facts["mapped"]} mapped, {passengers} carried, 0 missing, 0 unused
round trip   {"every key, dtype and byte comes back" if facts["round_trip"] else "NOT EXACT"}
goldens      {facts["golden"]}
fingerprint  {facts["fingerprint"]}

The same five numbers from your own PyTorch code, to about 1e-4:

{facts["pytorch"]}"""
