"""The evaluation stack is model-agnostic: published networks of others get their known scores."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from openseg_jax.bridge.pretrained import fill_backbone
from openseg_jax.bridge.torch_files import read_checkpoint
from openseg_jax.data import catalog
from openseg_jax.evaluation import batches, inference, metrics
from openseg_jax.evaluation.protocol import Protocol
from openseg_jax.models.layers import resize_bilinear
from openseg_jax.models.mobilenet_v2 import MobileNetV2

SIDE = 513  # longest side of an image; the rest of the square is grey, which is 0 for the network
GREY = SimpleNamespace(channel_order="rgb", scale=255.0, mean=(0.5, 0.5, 0.5))


def deeplab(state):
    """DeepLabV3 with MobileNetV2 and image pooling as the only context: `forward`, and weights."""
    backbone = MobileNetV2(output_stride=16, rng=None)
    of_backbone = {key: value for key, value in state.items() if key.startswith("backbone.")}
    assert fill_backbone(backbone, of_backbone).complete
    graph, weights = nnx.split(nnx.view(backbone, use_running_average=True))

    def layer(x, name):
        weight, bias, mean, variance = (
            state[f"{name}.1.{each}"] for each in ("weight", "bias", "running_mean", "running_var")
        )
        x = x @ state[f"{name}.0.weight"][:, :, 0, 0].T
        return jax.nn.relu((x - mean) / np.sqrt(variance + 1e-5) * weight + bias)

    def forward(weights, images):
        x = nnx.merge(graph, weights)(images / 127.5 - 1)[-1]
        pooled = layer(x.mean((1, 2), keepdims=True), "image_pooling")
        pixels = layer(x, "aspp0")
        x = jnp.concatenate([jnp.broadcast_to(pooled, pixels.shape), pixels], -1)
        x = layer(x, "concat_projection")
        logits = x @ state["logits.weight"][:, :, 0, 0].T + state["logits.bias"]
        return resize_bilinear(logits, images.shape[1:3])

    return forward, weights


def voc_pairs(folder):
    """The examples of Pascal VOC, images as the network wants them, labels as stored."""
    encode = catalog.get("pascal_voc").label_map.encode
    for path in sorted((folder / "SegmentationClass").glob("*.png")):
        image = Image.open(folder / "JPEGImages" / f"{path.stem}.jpg")
        size = [round(side * SIDE / max(image.size)) for side in image.size]
        image = np.asarray(image.resize(size, Image.Resampling.BILINEAR))
        yield {"image": image, "label": encode(np.asarray(Image.open(path))), "name": path.stem}


def test_deeplab_on_pascal_voc(real_data):
    weights = real_data / "weights" / "deeplabv3_mnv2_os16_voc21_dequant.pth"
    forward, weights = deeplab(read_checkpoint(weights))
    run = inference.under_protocol(forward, Protocol(fit_stride=SIDE), GREY)
    confusion = sum(
        metrics.confusion_matrix(example["label"], ids, 21)
        for example, ids in batches.predict_all(
            run, weights, voc_pairs(real_data / "formats/pascal_voc/VOCdevkit/VOC2012"), 1
        )
    )
    values = metrics.scores(confusion)
    there = confusion.sum(1) > 0
    assert there.sum() == 5
    # What PyTorch gets, which resizes label maps where we resize logits: within half a point.
    assert values["pixel_acc"] == pytest.approx(0.9627, abs=0.005)
    assert values["iou"][there].mean() == pytest.approx(0.6717, abs=0.005)
