"""A network's weights as the original's state dict, in and out, without losing a byte."""

from __future__ import annotations

import dataclasses

import numpy as np
from flax import nnx

from openseg_jax.bridge.names import WORLDS, network_variables, to_ours, to_torch
from openseg_jax.errors import UserError
from openseg_jax.models.segmenter import Segmenter

COUNTER = "num_batches_tracked"


@dataclasses.dataclass(frozen=True)
class Report:
    """Which keys of a state dict went where."""

    mapped: tuple[str, ...]
    missing: tuple[str, ...]  # in the network, not in the file
    unused: tuple[str, ...]  # in the file, not in the network
    clashes: tuple[str, ...]  # "name: shape in the file, the network's shape", PyTorch's order
    passengers: tuple[str, ...] = ()  # kept for the way back, without a role here
    world: str = ""  # the batch norm of the file: bn or inplace_abn
    sha256: str = ""  # of the file

    @property
    def complete(self) -> bool:
        """Whether every weight of the network was filled."""
        return bool(self.mapped) and not self.missing and not self.clashes

    def __str__(self) -> str:
        parts = [f"{len(self.mapped)} arrays loaded"]
        for kind in ("missing", "unused", "clashes"):
            names = getattr(self, kind)
            if names:
                more = ", …" if len(names) > 4 else ""
                parts.append(f"{len(names)} {kind} ({', '.join(names[:4])}{more})")
        return "; ".join(parts)


@dataclasses.dataclass(frozen=True, eq=False)
class Origin:
    """What a network remembers of the state dict it was filled from, for the way back."""

    keys: tuple[str, ...]  # in the order of the file
    dtypes: dict[str, np.dtype]
    passengers: dict[str, np.ndarray]


def detect_world(network: Segmenter, keys) -> str:
    """The batch norm that a state dict's keys speak of: "bn" or "inplace_abn".

    Files without one key that tells them apart (a ResNet backbone alone) count as "bn" where
    they count batches, as PyTorch's own batch norm does.
    """
    keys = set(keys)
    matches = {world: len(keys & network_variables(network, world).keys()) for world in WORLDS}
    if matches["bn"] != matches["inplace_abn"]:
        return max(matches, key=matches.get)
    return world_of_keys(keys)


def world_of_keys(keys) -> str:
    """The batch norm of a whole model's state dict; only PyTorch's own counts its batches."""
    return "bn" if any(key.endswith(COUNTER) for key in keys) else "inplace_abn"


def load_state_dict(
    network: Segmenter, state: dict[str, np.ndarray], strict: bool = True
) -> Report:
    """Fills a network from the original's state dict, in place.

    The network keeps views of the given arrays where dtypes agree: nothing is allocated twice.

    Args:
        state: keys without `module.`, arrays with PyTorch's axes.
        strict: whether keys that are missing, or that neither the network nor its way back
            knows, are an error.

    Raises:
        UserError: for another model's weights, for the other kind of batch norm, for NaNs.
    """
    world = detect_world(network, state)
    if world != network.norm:
        raise UserError(
            f"These weights are of a network with norm={world!r}, this one has "
            f"norm={network.norm!r}. Build it with norm={world!r}: the two compute differently."
        )
    targets = network_variables(network, world)
    passengers = {key: state[key] for key in state if _is_passenger(key, targets)}
    arrays = {key: to_ours(state[key]) for key in state if key not in passengers}
    report = fill(targets, arrays)
    report = dataclasses.replace(report, passengers=tuple(passengers), world=world)
    if strict and not (report.complete and not report.unused):
        raise UserError(f"These weights are not of this network: {report}.")
    dtypes = {key: state[key].dtype for key in report.mapped}
    known = dtypes.keys() | passengers.keys()
    network.origin = Origin(tuple(key for key in state if key in known), dtypes, passengers)
    return report


def _is_passenger(key: str, targets: dict) -> bool:
    """The batch counters, and the classifier that the original's ResNeSt carries unused."""
    if key in targets:
        return False
    return key.endswith("." + COUNTER) or key in ("backbone.fc.weight", "backbone.fc.bias")


def fill(targets: dict[str, nnx.Variable], arrays: dict[str, np.ndarray]) -> Report:
    """Puts arrays (with our axes) into the variables of the same names, where shapes agree."""
    mapped, clashes = [], []
    for name, array in arrays.items():
        if name not in targets:
            continue
        wanted = targets[name].get_value()
        if array.shape != wanted.shape:
            shapes = to_torch(array).shape, to_torch(wanted).shape
            clashes.append(f"{name}: {shapes[0]}, the network's is {shapes[1]}")
            continue
        array = array.astype(wanted.dtype, copy=False)
        if not np.isfinite(array).all():
            raise UserError(
                f"{name} holds NaN or infinite values: the training that wrote it failed."
            )
        targets[name].set_value(array)
        mapped.append(name)
    return Report(
        tuple(mapped),
        tuple(name for name in targets if name not in arrays),
        tuple(name for name in arrays if name not in targets),
        tuple(clashes),
    )


def to_state_dict(network: Segmenter) -> dict[str, np.ndarray]:
    """The original's state dict of a network, the exact inverse of `load_state_dict`.

    A network that was never filled from one gets the keys of its own batch norm, with batch
    counters of zero where PyTorch has them.
    """
    variables = network_variables(network, network.norm)
    origin = network.origin or _default_origin(variables, network.norm)
    state = {}
    for key in origin.keys:
        if key in origin.passengers:
            state[key] = origin.passengers[key]
        else:
            array = to_torch(np.asarray(variables[key].get_value()))
            state[key] = array.astype(origin.dtypes.get(key, array.dtype), copy=False)
    return state


def _default_origin(variables: dict[str, nnx.Variable], norm: str) -> Origin:
    keys, passengers = [], {}
    for key in variables:
        keys.append(key)
        if norm == "bn" and key.endswith(".running_var"):
            counter = key.removesuffix("running_var") + COUNTER
            keys.append(counter)
            passengers[counter] = np.zeros((), np.int64)
    return Origin(tuple(keys), {}, passengers)
