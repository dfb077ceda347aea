"""PyTorch weights in and out: read files, rename, convert both ways, report."""

from openseg_jax.bridge.reference import build_reference_model, reference_outputs
from openseg_jax.bridge.state_dict import Report, load_state_dict, to_state_dict
from openseg_jax.bridge.torch_files import read_checkpoint

__all__ = [
    "Report",
    "build_reference_model",
    "load_state_dict",
    "read_checkpoint",
    "reference_outputs",
    "to_state_dict",
]
