"""The training loss of a network's outputs, as `config.loss` wants it."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp

from openseg_jax.data.dataset import IGNORE
from openseg_jax.errors import UserError
from openseg_jax.training.boundary_losses import edge_loss, segfix_loss
from openseg_jax.training.cross_entropy import cross_entropy
from openseg_jax.training.ohem import ohem_cross_entropy
from openseg_jax.training.overlap_losses import dice_loss, lovasz_softmax
from openseg_jax.training.rmi import rmi_loss


def segmentation_loss(
    outputs: tuple[jax.Array, ...],
    labels: jax.Array,
    loss,
    distance: jax.Array | None = None,
    angle: jax.Array | None = None,
) -> jax.Array:
    """The loss of a batch, a scalar of at least float32.

    The batch is split into `loss.shards` consecutive parts. Each is normalised and mined on its
    own, then they are averaged: what the original does on that many GPUs. A part without any
    valid pixel contributes zero, with zero gradient.

    Args:
        outputs: (n, h, w, k) logits; auxiliary ones first, the main one last. CE2P: parsing,
            edge, auxiliary, main. SegFix: mask and direction.
        labels: (n, h, w) integers, 0..k-1 or IGNORE.
        loss: `config.loss`.
        distance, angle: (n, h, w), of `segfix_loss`.

    Raises:
        UserError: the loss needs other outputs or labels than it got.
    """
    _check_outputs([output.shape[-1] for output in outputs], loss.name, distance is not None)
    targets = (labels,) if distance is None else (labels, distance, angle)
    outputs = tuple(y.astype(jnp.promote_types(y.dtype, jnp.float32)) for y in outputs)
    parts = jax.tree.map(
        lambda x: x.reshape(loss.shards, -1, *x.shape[1:]),
        (outputs, targets),
    )
    return jax.vmap(partial(_loss_of_part, loss))(*parts).mean()


def _loss_of_part(loss, outputs, targets) -> jax.Array:
    if loss.name == "segfix":
        return segfix_loss(*outputs, *targets, max_distance=loss.segfix_max_distance)
    labels = targets[0]
    weights = tuple(loss.class_weights) or None
    plain = partial(
        cross_entropy,
        labels=labels,
        class_weights=weights,
        label_smoothing=loss.label_smoothing,
    )
    *auxiliary, main = outputs
    total = 0.0
    if loss.name == "ohem":
        total += ohem_cross_entropy(
            main, labels, loss.ohem_threshold, loss.ohem_min_kept, weights, loss.label_smoothing
        )
    elif loss.name == "rmi":
        total += rmi_loss(main, labels, loss.rmi_balance)
    else:
        total += plain(main)
    if loss.name == "ce2p":
        parsing, edge, *auxiliary = auxiliary
        total += plain(parsing) + loss.edge_weight * edge_loss(edge, labels)
    total += loss.aux_weight * sum(map(plain, auxiliary))
    if loss.dice_weight:
        total += loss.dice_weight * dice_loss(main, labels)
    if loss.lovasz_weight:
        total += loss.lovasz_weight * lovasz_softmax(main, labels)
    return total


def _check_outputs(channels: list[int], name: str, has_distance: bool) -> None:
    """Raises UserError where the network, by its outputs' channels, is not one for this loss."""
    assert IGNORE not in range(channels[-1]), "a class may not have the id of IGNORE"
    if name == "segfix":
        fits, needed = len(channels) == 2 and channels[0] == 2, "a mask and a direction output"
        if fits and not has_distance:
            raise UserError(
                "config.loss.name is 'segfix': it needs distance and angle maps beside the "
                "labels. Set config.data.boundaries='classes'."
            )
    elif name == "ce2p":
        fits, needed = len(channels) == 4 and channels[1] == 2, "CE2P's four outputs"
    else:
        fits, needed = len(set(channels)) == 1, "outputs that are all logits of the classes"
    if not fits:
        raise UserError(
            f"config.loss.name is {name!r}: it needs {needed}, but the outputs of this network "
            f"have {', '.join(map(str, channels))} channels. Choose a config.loss.name that goes "
            "with config.model.method."
        )
