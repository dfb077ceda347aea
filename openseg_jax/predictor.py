"""From an image to its label map: `load(path).predict(image)`."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

from openseg_jax import config as config_lib
from openseg_jax.compilation import compiler_options
from openseg_jax.data.folder import dataset_of
from openseg_jax.errors import UserError
from openseg_jax.evaluation import batches, inference, segfix
from openseg_jax.evaluation.protocol import Protocol, prepare
from openseg_jax.models import segmenter
from openseg_jax.models.folding import fold_batch_norm
from openseg_jax.photos import read_image
from openseg_jax.preprocessing import compute_dtype
from openseg_jax.training import checkpoint

MAX_PIXELS = 2048 * 2048  # larger images are reduced for the network, unless the config says else
SEGFIX = "segfix"


class Predictor:
    """A trained network with everything it needs: normalisation, classes, colours.

    Images are run under the protocol `config.eval`.

    Args:
        weights: `{"params", "stats"}`.
        graph: the "eval" graph of `segmenter.graphs`.
        name: where the weights came from, for messages.
        confidence: whether `predict_all` also gives the probability of the best class.
    """

    def __init__(self, config, weights: dict, graph, name: str, confidence: bool = False):
        if config.model.method == SEGFIX:
            raise UserError(
                f"{name} is a SegFix network, which refines label maps and makes none. Use it "
                "with `openseg segfix`, or as `openseg predict --boundary-refine`."
            )
        if segmenter.needs_labels(config.model):
            raise UserError(
                f"{name} is a network of {config.model.method}, which is told the labels: it can "
                "be evaluated, but it cannot predict."
            )
        self.config, self.name = config, name
        self.dataset = dataset_of(config.data)
        self.classes, self.palette = self.dataset.classes, self.dataset.palette
        graph, weights = _folded(graph, weights)
        self._weights = inference.local_weights(weights)
        self._inference = inference.under_protocol(
            inference.make_forward(graph, config.data, compute_dtype(config.dtype)),
            _with_limit(Protocol.of(config.eval)),
            config.data,
            self.dataset.flip_pairs,
            confidence,
            compiler_options(segmenter.backbone_class(config.model)),
        )

    @classmethod
    def load(cls, path, config=None, confidence: bool = False) -> Predictor:
        """The network of a checkpoint, or of the best checkpoint of a workdir."""
        return cls(*load_network(path, config), confidence)

    def predict(self, image):
        """Label map `(h, w)` uint8 of an RGB uint8 `(h, w, 3)` array or of an image's path.

        A list of them gives a list. The picture of a file is turned upright first.
        """
        if isinstance(image, (list, tuple)):
            return [self.predict(each) for each in image]
        array, output, size = self._run(image, at_size=True)
        return self._inference.finish(output, size, array.shape[:2])[0]

    def logits(self, image) -> np.ndarray:
        """Logits `(h, w, k)` float32 of an RGB uint8 `(h, w, 3)` array or of an image's path.

        They are the sum over the scales and mirror images of the protocol.
        """
        array, output, (height, width) = self._run(image, at_size=False)
        planes = output[:, :height, :width]
        if (height, width) != array.shape[:2]:
            planes = [inference.resized(plane, array.shape[:2]) for plane in planes]
        return np.ascontiguousarray(np.stack(planes, -1))

    def _run(self, image, at_size: bool):
        """The image, its part of `Inference.run`, and the (height, width) of its network input."""
        array = _checked(image)
        padded, size = prepare(self._inference.protocol, array)
        copies = np.repeat(padded[None], jax.local_device_count(), 0)  # a batch must divide
        sizes = np.full((len(copies), 2), size, np.int32)
        at_size = at_size and size == array.shape[:2]
        output = jax.device_get(self._inference.run(self._weights, copies, sizes, at_size))
        return array, jax.tree.map(lambda each: each[0], output), size

    def predict_all(self, items, batch_size: int = 0, **how) -> Iterator:
        """As `batches.predict_all`, in batches of images of one shape."""
        return batches.predict_all(self._inference, self._weights, items, batch_size, **how)


class Refiner:
    """A trained SegFix network: `refine(image, labels)`.

    Images are run under the protocol `config.eval`, large ones reduced as by `Predictor`.
    """

    def __init__(self, config, weights: dict, graph, name: str):
        if config.model.method != SEGFIX:
            raise UserError(
                f"{name} is no SegFix network but {config.model.method!r}; it cannot refine "
                "boundaries."
            )
        self.name = name
        graph, weights = _folded(graph, weights)
        self._weights = inference.local_weights(weights)
        protocol = _with_limit(Protocol.of(config.eval))
        self._inference = segfix.make_inference(config, graph, protocol)
        self._one_at_a_time = threading.Lock()  # several images at once need several times memory

    @classmethod
    def load(cls, path, config=None) -> Refiner:
        """The network of a checkpoint, or of the best checkpoint of a workdir."""
        return cls(*load_network(path, config))

    def offsets(self, image) -> np.ndarray:
        """Offsets `(h, w, 2)` int8 (down, right) of an RGB uint8 array or of an image's path."""
        with self._one_at_a_time:
            return segfix.predicted_offsets(self._inference, self._weights, _checked(image))

    def refine(self, image, labels: np.ndarray, scale: float = segfix.SEMANTIC_SCALE) -> np.ndarray:
        """Labels `(h, w)` of any program with better boundaries."""
        return np.asarray(segfix.refine(labels, self.offsets(image), scale))


def load_network(path, config=None):
    """Config, weights, graph and name of a checkpoint."""
    folder = checkpoint.find(Path(path).expanduser())
    arrays, saved = checkpoint.load(folder)
    config = config or config_lib.from_dict(saved)
    network = segmenter.build(config.model, rng=None)
    params, stats, graphs = segmenter.graphs(network)
    weights = checkpoint.fill({"params": params, "stats": stats}, arrays, str(folder))
    return config, weights, graphs["eval"], str(folder)


def _folded(graph, weights: dict):
    """Graph and weights with batch norms in the convolutions before them."""
    graph, params, stats = fold_batch_norm(graph, weights["params"], weights["stats"])
    return graph, {"params": params, "stats": stats}


def _with_limit(protocol: Protocol) -> Protocol:
    limited = dataclasses.replace(protocol, max_pixels=MAX_PIXELS)
    return protocol if protocol.max_pixels or protocol.window else limited


def _checked(image) -> np.ndarray:
    array = read_image(image) if isinstance(image, (str, Path)) else np.asarray(image)
    if array.ndim != 3 or array.shape[-1] != 3 or array.dtype != np.uint8 or not array.size:
        raise UserError(
            f"An image must be an RGB uint8 array of shape (h, w, 3), not {array.dtype} "
            f"{array.shape}."
        )
    return array
