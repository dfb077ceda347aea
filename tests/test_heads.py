"""Every head on small feature maps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from modules import RNG, evaluate, random

from openseg_jax.bridge.heads import HEAD_NAMES
from openseg_jax.config import default_config
from openseg_jax.errors import UserError
from openseg_jax.models import segmenter
from openseg_jax.models.asp_ocr import ASPOCRHead
from openseg_jax.models.ce2p import CE2PHead
from openseg_jax.models.fcn import FCNHead
from openseg_jax.models.ideal_ocr import IdealOCRHead
from openseg_jax.models.isa import ISAHead
from openseg_jax.models.ocnet import ASPOCNetHead, OCNetHead
from openseg_jax.models.ocr import OCRHead
from openseg_jax.models.segfix import SegFixHead

RESNET, WIDE, HRNET = (128, 128, 256, 512, 1024, 2048), (512, 1024, 2048, 4096), (720, 720)
WITHOUT_DROPOUT = {"aux_dropout": 0.0}
HEADS = {  # the original's networks: head, what differs from its defaults, its widths, parameters
    "fcnet": (FCNHead, {}, RESNET, 14_178_304),
    "base_ocnet": (OCNetHead, {}, RESNET, 15_363_366),
    "asp_ocnet": (ASPOCNetHead, {}, RESNET, 19_853_478),
    "isanet": (ISAHead, {}, RESNET, 16_543_782),
    "spatial_ocrnet": (OCRHead, {}, RESNET, 15_364_902),
    "spatial_asp_ocrnet": (ASPOCRHead, {}, RESNET, 24_632_230),
    "ideal_spatial_ocrnet": (IdealOCRHead, {}, RESNET, 15_364_902),
    "ideal_spatial_ocrnet_b": (
        IdealOCRHead,
        {"contexts": ("object", "background")},
        RESNET,
        15_627_046,
    ),
    "ideal_spatial_ocrnet_c": (IdealOCRHead, {"contexts": ("background",)}, RESNET, 15_364_902),
    "ideal_gather_ocrnet": (IdealOCRHead, {"contexts": ("attended",)}, RESNET, 15_364_902),
    "ideal_distribute_ocrnet": (IdealOCRHead, {"gather_labels": False}, RESNET, 15_364_902),
    "ce2p_asp_ocrnet": (CE2PHead, {}, RESNET, 68_604_905 - 42_623_936),
    "hrnet_w48": (FCNHead, {"channels": None, "auxiliary": False}, HRNET, 4_681_440),
    "hrnet_w48_ocr": (OCRHead, {"aux_channels": None, **WITHOUT_DROPOUT}, HRNET, 9_197_062),
    "hrnet_w48_ocr_b": (
        OCRHead,
        {"channels": 256, "key_channels": 128, "aux_channels": 256, **WITHOUT_DROPOUT},
        HRNET,
        3_627_430,
    ),
    "hrnet_w48_asp_ocr": (
        ASPOCRHead,
        {"dilations": (24, 48, 72), "classifier_bias": False, **WITHOUT_DROPOUT},
        HRNET,
        10_652_544,
    ),
    "hrnet_w48_isa": (
        ISAHead,
        {"bias": True, "classifier_bias": False, "auxiliary": False},
        HRNET,
        # 3x3 with bias and norm; two attentions (queries and keys, values, output); fusion, classes
        (9 * 720 + 3) * 512
        + 2 * (2 * ((512 + 2) * 256 + (256 + 2) * 256) + (2 * 512 + 2) * 512)
        + (1024 + 2) * 512
        + 512 * 19,
    ),
    "segfix_hrnet": (SegFixHead, {}, HRNET, 372_224),
}


def parameters(module):
    return sum(
        v[...].size
        for v in jax.tree.leaves(
            nnx.state(module, nnx.Param), is_leaf=lambda x: isinstance(x, nnx.Variable)
        )
    )


@pytest.mark.parametrize("name", HEADS)
def test_parameter_counts_are_those_of_the_original(name):
    head, options, widths, count = HEADS[name]
    assert parameters(head(widths, 19, rng=None, **options)) == count


def test_parameter_counts_on_wide_features():
    assert parameters(FCNHead(WIDE, 19, rng=None)) == 133_404_992 - 105_070_912
    assert parameters(OCNetHead(WIDE, 19, rng=None)) == 134_590_054 - 105_070_912
    assert parameters(ASPOCNetHead(WIDE, 19, rng=None)) == 139_080_166 - 105_070_912
    assert parameters(OCRHead(WIDE, 19, rng=None)) == 134_591_590 - 105_070_912


@pytest.mark.parametrize("name", HEADS)
def test_every_parameter_has_one_name_in_pytorch(name):
    head, options, widths, _ = HEADS[name]
    if head is ISAHead:
        options = options | {"factors": ((8, 8), (4, 4))}
    names, used = HEAD_NAMES[name], []
    for path, _ in nnx.to_flat_state(nnx.state(head(widths, 19, rng=None, **options))):
        path = [str(part) for part in path[:-1] if part not in ("conv", "norm_act", "bn")]
        whole = ".".join(map(str, path))
        assert whole in names or f"{whole}.norm_act" in names, whole
        used.append(names.get(whole) or names[f"{whole}.norm_act"])
    named = {tuple(name.split(".")) for name in used}
    assert len(named) == len(set(used)) > 0


SMALL = {  # the same heads with few channels
    FCNHead: {"channels": 6, "aux_channels": 4},
    OCNetHead: {"channels": 6, "key_channels": 4, "aux_channels": 4, "attention_chunk": 5},
    ASPOCNetHead: {"channels": 6, "branch_channels": 4, "key_channels": 2, "aux_channels": 4},
    ISAHead: {"channels": 6, "key_channels": 4, "aux_channels": 4, "factors": ((2, 3), (4, 4))},
    OCRHead: {"channels": 6, "key_channels": 4, "aux_channels": 4},
    ASPOCRHead: {"channels": 6, "key_channels": 4, "aux_channels": 4},
    IdealOCRHead: {"channels": 6, "key_channels": 4, "aux_channels": 4},
    CE2PHead: {"channels": 6, "key_channels": 4, "aux_channels": 4, "context_channels": 5},
    SegFixHead: {"channels": 6},
}


def small(head, **options):
    return head((3, 5, 7, 9), 4, rng=np.random.default_rng(0), **SMALL[head], **options)


def features():
    """Of odd widths, each map twice as large as the next."""
    return [random(2, 3 * s, 5 * s, c) for s, c in ((8, 3), (4, 5), (2, 7), (1, 9))]


def labels_for(head):
    return (RNG.integers(0, 4, (2, 48, 80)),) if head is IdealOCRHead else ()


def training(head):
    """(a function of parameters and feature maps, parameters) of a head in training."""
    graph, params, stats = nnx.split(nnx.view(small(head), deterministic=False), nnx.Param, ...)
    params, stats = jax.tree.map(jnp.asarray, (params, stats))
    labels = labels_for(head)

    def outputs(params, maps):
        network = nnx.merge(graph, params, stats, copy=True)
        return network(maps, nnx.Rngs(dropout=0), *labels)

    return outputs, params


@pytest.mark.parametrize("head", SMALL, ids=lambda head: head.__name__)
def test_heads_take_feature_maps_of_any_width_and_of_different_sizes(head):
    deep, auxiliary, fine = (2, 3, 5), (2, 6, 10), (2, 24, 40)
    expected = {
        CE2PHead: [(*fine, 4), (*fine, 2), (*auxiliary, 4), (*fine, 4)],
        SegFixHead: [(*deep, 2), (*deep, 8)],
    }.get(head, [(*auxiliary, 4), (*deep, 4)])
    outputs, params = training(head)
    assert [y.shape for y in jax.eval_shape(outputs, params, features())] == expected


@pytest.mark.slow
@pytest.mark.parametrize("head", SMALL, ids=lambda head: head.__name__)
def test_every_kernel_that_an_output_depends_on_has_a_gradient(head):
    outputs, params = training(head)
    # Not zero, or nothing would flow back through the self-attention of OCNet.
    params = jax.tree.map(lambda x: x + 0.1 * random(*x.shape), params)

    def loss(params, maps):
        weighted = (y * jnp.cos(jnp.arange(y.size)).reshape(y.shape) for y in outputs(params, maps))
        return sum(map(jnp.sum, weighted))

    for path, gradient in nnx.to_flat_state(jax.jit(jax.grad(loss))(params, features())):
        name = ".".join(map(str, path))
        unread = head is IdealOCRHead and name.startswith(("attention.query", "attention.key"))
        assert np.isfinite(gradient[...]).all()
        if path[-1] == "kernel":
            assert bool(np.any(gradient[...])) != unread, name


@pytest.mark.parametrize("head", [FCNHead, OCNetHead, ASPOCNetHead, ISAHead])
def test_heads_without_auxiliary_output_have_one(head):
    (output,) = evaluate(small(head, auxiliary=False), features())
    assert output.shape == (2, 3, 5, 4)


@pytest.mark.parametrize("contexts", [("attended",), ("object", "background"), ("background",)])
@pytest.mark.parametrize("gather_labels", [True, False])
def test_ideal_heads_follow_their_labels(contexts, gather_labels):
    module = small(IdealOCRHead, contexts=contexts, gather_labels=gather_labels)
    maps, (labels,) = features(), labels_for(IdealOCRHead)
    _, main = evaluate(module, maps, None, labels)
    # Flipped, for another numbering of the same classes makes no difference.
    _, other = evaluate(module, maps, None, labels[:, ::-1])
    labels_matter = gather_labels or contexts != ("attended",)
    assert np.allclose(main, other) != labels_matter


@pytest.mark.parametrize("images", [np.zeros((1, 32, 32, 3), np.uint8), np.zeros((32, 32, 3))])
def test_a_network_refuses_what_is_no_batch_of_normalised_images(images):
    model = default_config().model
    model.update(method="fcn", backbone="resnet18", num_classes=3)
    network = segmenter.build(model, np.random.default_rng(0))
    with pytest.raises(UserError, match="normalised images"):
        network(images)
