"""Outputs and labels that losses are tested on, and the loss of each pixel by its definition."""

import numpy as np

RNG = np.random.default_rng(0)
SHAPE = (4, 12, 13)
LOGITS = RNG.normal(size=(*SHAPE, 3)).astype(np.float32)
OTHER = RNG.normal(size=(*SHAPE, 3)).astype(np.float32)
LABELS = RNG.integers(0, 3, (4, 3, 4)).repeat(4, 1).repeat(4, 2)[:, :12, :13].astype(np.int32)
LABELS = np.pad(LABELS, ((0, 0), (0, 0), (0, 13 - LABELS.shape[2])), constant_values=1)
LABELS[0, :2] = 255
WEIGHTS = (0.5, 1.0, 3.0)
TWO = RNG.normal(size=(*SHAPE, 2)).astype(np.float32)
EIGHT = RNG.normal(size=(*SHAPE, 8)).astype(np.float32)
DISTANCE = RNG.integers(0, 9, SHAPE)
ANGLE = 2 * RNG.integers(-90, 91, SHAPE).astype(np.int16)


def softmax(logits):
    wide = np.exp(logits.astype(np.float64))
    return wide / wide.sum(-1, keepdims=True)


def pixel_losses(logits, labels, weights):
    """Weighted loss and weight of each valid pixel."""
    probability = softmax(logits).reshape(-1, logits.shape[-1])
    valid = labels.ravel() != 255
    target = labels.ravel()[valid]
    weight = np.asarray(weights)[target]
    return -weight * np.log(probability[valid, target]), weight
