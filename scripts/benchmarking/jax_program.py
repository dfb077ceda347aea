"""Our side: the real training step, and evaluation with folded batch norms."""

from __future__ import annotations

import time

import jax
import numpy as np
from flax import nnx
from jax.interpreters import partial_eval
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from benchmarking.case import Case, Program, config_of, host_batch, network_input
from openseg_jax.analysis import count_macs
from openseg_jax.compilation import compiler_options
from openseg_jax.models import segmenter
from openseg_jax.models.folding import fold_batch_norm
from openseg_jax.parallel import batch_specs, make_mesh, replicate, shard_batch
from openseg_jax.preprocessing import compute_dtype


def jax_program(case: Case, network: segmenter.Segmenter) -> Program:
    """Compiles what the case asks for; `facts` tell how long each stage took."""
    return (_training if case.mode == "train" else _evaluation)(case, network)


def _evaluation(case: Case, network: segmenter.Segmenter) -> Program:
    params, stats, graphs = segmenter.graphs(network)
    graph, *weights = fold_batch_norm(graphs["eval"], params, stats)
    weights, images = jax.device_put((weights, network_input(case)))
    options = compiler_options(type(network.backbone))
    forward = jax.jit(_forward(graph, case), compiler_options=options)
    compiled, facts = _compile(forward, weights, images)
    last = {}

    def start():
        last["output"] = compiled(weights, images)

    return _program(start, last, facts)


def _forward(graph: nnx.GraphDef, case: Case):
    """Weights and normalised images -> logits: all in "train", the segmentation's in "eval"."""
    dtype = compute_dtype(case.dtype)

    def forward(weights, images):
        outputs = nnx.merge(graph, *weights)(images.astype(dtype))
        return outputs if case.mode == "train" else outputs[-1]

    return forward


def _training(case: Case, network: segmenter.Segmenter) -> Program:
    # Here, as the trainer needs more packages than evaluation.
    from openseg_jax.training.step import create_state, make_train_step

    config = config_of(case)
    state, graphs = create_state(config, network)
    mesh = make_mesh(config.mesh, case.batch, case.size[0], jax.devices()[:1])
    batch = host_batch(case)
    step = make_train_step(config, graphs["train"], mesh, batch_specs(batch))
    batch = shard_batch(batch, mesh)
    last = {"state": replicate(state, mesh)}
    del state
    compiled, facts = _compile(step, last["state"], batch)

    def start():
        last["state"], metrics = compiled(last["state"], batch)
        last["output"] = metrics["loss"]

    return _program(start, last, facts)


def _compile(function, *inputs):
    """The executable, and the seconds of its making."""
    begin = time.perf_counter()
    traced = function.trace(*inputs)
    after_trace = time.perf_counter()
    lowered = traced.lower()
    after_lower = time.perf_counter()
    compiled = lowered.compile()
    return compiled, {
        "trace": after_trace - begin,
        "lower": after_lower - after_trace,
        "compile": time.perf_counter() - after_lower,
    }


def _program(start, last: dict, facts: dict) -> Program:
    device = jax.devices()[0]

    def memory():
        statistics = device.memory_stats() or {}
        return statistics.get("peak_bytes_in_use")

    return Program(
        start=start,
        wait=lambda: jax.block_until_ready(last),
        output=lambda: jax.device_get(last["output"]),
        memory=memory,
        facts=facts,
    )


def compile_for(case: Case, target) -> jax.stages.Compiled:
    """The step as `jax_program` runs it, for devices that need not be here.

    Args:
        target: from `openseg_jax.targets.find_target`.
    """
    if case.mode == "train":
        from openseg_jax import preflight  # here, as the trainer needs more packages

        config = config_of(case)
        config.augment.crop = case.size
        state, graphs = preflight.abstract_state(config)
        traced = preflight.trace_train_step(config, target.devices, state, graphs["train"])
    else:
        network = segmenter.build(config_of(case).model, np.random.default_rng(0))
        params, stats, graphs = segmenter.graphs(network)
        graph, *weights = fold_batch_norm(graphs["eval"], params, stats)
        sharding = NamedSharding(Mesh(np.array(target.devices), ("data",)), PartitionSpec())
        images = jax.ShapeDtypeStruct((case.batch, *case.size, 3), np.float32)
        inputs = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            (weights, images),
        )
        traced = jax.jit(_forward(graph, case)).trace(*inputs)
    return traced.lower().compile()


def forward_macs(case: Case) -> int:
    """Multiply-accumulates of `forward_jaxpr`."""
    return count_macs(forward_jaxpr(case))


def forward_jaxpr(case: Case):
    """One forward pass of the batch as it is traced; in "eval" without auxiliary logits."""
    network = segmenter.build(config_of(case).model, rng=None)
    *weights, graphs = segmenter.graphs(network)
    images = jax.ShapeDtypeStruct((case.batch, *case.size, 3), "float32")
    jaxpr = jax.make_jaxpr(_forward(graphs["eval"], case))(weights, images).jaxpr
    return partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))[0]
