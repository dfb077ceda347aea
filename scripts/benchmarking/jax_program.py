"""Our side: the real training step, and evaluation with folded batch norms."""

from __future__ import annotations

import time

import jax
from flax import nnx
from jax.interpreters import partial_eval

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
    forward = _forward(case, *fold_batch_norm(graphs["eval"], params, stats))
    weights = jax.device_put(forward.weights)
    images = jax.device_put(network_input(case))
    compiled, facts = _compile(network, jax.jit(forward.main), weights, images)
    last = {}

    def start():
        last["output"] = compiled(weights, images)

    return _program(start, last, facts)


class _forward:
    """The network as functions of weights and normalised images."""

    def __init__(self, case: Case, graph: nnx.GraphDef, params: dict, stats: dict):
        self.graph, self.weights = graph, (params, stats)
        self.dtype = compute_dtype(case.dtype)

    def all(self, weights, images):
        """All logits."""
        return nnx.merge(self.graph, *weights)(images.astype(self.dtype))

    def main(self, weights, images):
        """The segmentation alone."""
        return self.all(weights, images)[-1]


def _training(case: Case, network: segmenter.Segmenter) -> Program:
    # Here, as the trainer needs more packages than evaluation.
    from openseg_jax.training.trainer import create_state, make_train_step

    config = config_of(case)
    state, graphs = create_state(config, network)
    mesh = make_mesh(config.mesh, case.batch, case.size[0], jax.devices()[:1])
    batch = host_batch(case)
    step = make_train_step(config, graphs["train"], mesh, batch_specs(batch))
    batch = shard_batch(batch, mesh)
    last = {"state": replicate(state, mesh)}
    del state
    compiled, facts = _compile(network, step, last["state"], batch)

    def start():
        last["state"], metrics = compiled(last["state"], batch)
        last["output"] = metrics["loss"]

    return _program(start, last, facts)


def _compile(network: segmenter.Segmenter, function, *inputs):
    """The executable, and the seconds of its making."""
    begin = time.perf_counter()
    traced = function.trace(*inputs)
    after_trace = time.perf_counter()
    lowered = traced.lower()
    after_lower = time.perf_counter()
    options = compiler_options(network.backbone.high_resolution)
    compiled = lowered.compile(compiler_options=options)
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


def forward_macs(case: Case) -> int:
    """Multiply-accumulates of one forward pass of the batch; in "eval" of the main logits alone."""
    network = segmenter.build(config_of(case).model, rng=None)
    params, stats, graphs = segmenter.graphs(network)
    forward = _forward(case, graphs["eval"], params, stats)
    function = forward.all if case.mode == "train" else forward.main
    images = jax.ShapeDtypeStruct((case.batch, *case.size, 3), "float32")
    jaxpr = jax.make_jaxpr(function)(forward.weights, images).jaxpr
    used, _ = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    return count_macs(used)
