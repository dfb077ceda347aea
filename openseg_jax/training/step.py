"""The training step: a pure function of state and batch, compiled with the state donated."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding

from openseg_jax.compilation import compiler_options
from openseg_jax.models import segmenter
from openseg_jax.models.layers import BatchNorm
from openseg_jax.parallel import REPLICATED
from openseg_jax.preprocessing import compute_dtype, normalize
from openseg_jax.training import optimizer, safety
from openseg_jax.training.losses import segmentation_loss


def create_state(config, network: segmenter.Segmenter) -> tuple[dict, dict]:
    """The initial state (plain nested dicts on the host) and the train and eval graphs.

    With `config.dtype = "float64"` parameters and statistics are float64 too.
    """
    params, stats, graphs = segmenter.graphs(network, config.train.freeze_norm)
    optimizer.check_frozen(params, config.train.frozen)
    if config.dtype == "float64":
        params, stats = (
            jax.tree.map(lambda a: np.asarray(a, np.float64), tree) for tree in (params, stats)
        )
    momenta = jax.eval_shape(optimizer.direction(config.optimizer).init, params)
    state = {
        "params": params,
        "stats": stats,
        "optimizer": jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), momenta),
        "step": np.zeros((), np.int32),
    }
    if config.optimizer.schedule == "plateau":
        state["plateau"] = jax.tree.map(np.asarray, optimizer.plateau(config.optimizer).init(()))
    if optimizer.keeps_average(config):
        state["average"] = jax.tree.map(np.copy, {"params": params, "stats": stats})
    return state, graphs


def make_train_step(config, graph: nnx.GraphDef, mesh: Mesh, specs: dict) -> Callable:
    """`train_step(state, batch) -> (state, metrics)`, compiled, with the state donated.

    Args:
        graph: the "train" graph of `create_state`.
        specs: of `parallel.batch_specs`.
    """
    dtype = compute_dtype(config.dtype)
    transform = optimizer.direction(config.optimizer)
    replicated = NamedSharding(mesh, REPLICATED)
    batch_shardings = {name: NamedSharding(mesh, spec) for name, spec in specs.items()}

    @partial(
        jax.jit,
        donate_argnums=0,
        in_shardings=(replicated, batch_shardings),
        out_shardings=(replicated, replicated),
        compiler_options=compiler_options(segmenter.backbone_class(config.model)),
    )
    def train_step(state: dict, batch: dict) -> tuple[dict, dict]:
        images = normalize(batch["image"], config.data, dtype, batch["brightness"], batch["box"])
        labels = batch["label"].astype(jnp.int32)
        boundaries = {name: batch[name] for name in ("distance", "angle") if name in batch}
        random = jax.random.fold_in(jax.random.key(config.seed), state["step"])

        def loss_of(params):
            network = nnx.merge(graph, params, state["stats"])
            outputs = network(images, nnx.Rngs(dropout=random), labels)
            loss = segmentation_loss(outputs, labels, config.loss, **boundaries)
            return loss, nnx.to_pure_dict(nnx.state(network, nnx.BatchStat))

        (loss, stats), gradients = jax.value_and_grad(loss_of, has_aux=True)(state["params"])
        updates, momenta = transform.update(gradients, state["optimizer"], state["params"])
        rates = optimizer.learning_rates(config.optimizer, config.train.steps, state["step"])
        lowered = {}
        if "plateau" in state:
            rates, lowered["plateau"] = optimizer.plateau(config.optimizer).update(
                rates, state["plateau"], value=loss
            )
        updates = optimizer.freeze(updates, config.train.frozen)
        params = optimizer.descend(state["params"], updates, rates)
        metrics = {"loss": loss, "lr": rates[0], "grad_norm": _norm(gradients)}
        new_state = {
            "params": params,
            "stats": stats,
            "optimizer": momenta,
            "step": state["step"] + 1,
            **lowered,
        }
        if optimizer.keeps_average(config):
            new_state["average"] = optimizer.update_average(
                config, state["average"], {"params": params, "stats": stats}, state["step"]
            )
        if config.train.skip_nonfinite:
            new_state = safety.skip_unless_finite(metrics, new_state, state)
        return new_state, metrics

    return train_step


def make_statistics_step(config, graph: nnx.GraphDef, mesh: Mesh, specs: dict) -> Callable:
    """`statistics_step(weights, batch, index) -> weights`, compiled, with the weights donated.

    Weights that were averaged over time never saw a batch. After this for `index` = 0, 1, … their
    batch norms have the mean of the statistics that these batches have on their own.

    Args:
        graph, specs: as of `make_train_step`; `weights` is a dict of "params" and "stats".
    """
    dtype = compute_dtype(config.dtype)
    replicated = NamedSharding(mesh, REPLICATED)
    batch_shardings = {name: NamedSharding(mesh, spec) for name, spec in specs.items()}

    @partial(
        jax.jit,
        donate_argnums=0,
        in_shardings=(replicated, batch_shardings, replicated),
        out_shardings=replicated,
        compiler_options=compiler_options(segmenter.backbone_class(config.model)),
    )
    def statistics_step(weights: dict, batch: dict, index: jax.Array) -> dict:
        images = normalize(batch["image"], config.data, dtype, batch["brightness"], batch["box"])
        random = jax.random.fold_in(jax.random.key(config.seed), config.train.steps + index)
        network = nnx.merge(graph, weights["params"], weights["stats"])
        for _, module in nnx.iter_modules(network):
            if isinstance(module, BatchNorm):
                module.momentum = 1.0  # nothing stays of the statistics before
        network(images, nnx.Rngs(dropout=random), batch["label"].astype(jnp.int32))
        alone = nnx.to_pure_dict(nnx.state(network, nnx.BatchStat))
        mean = jax.tree.map(lambda a, b: a + (b - a) / (index + 1), weights["stats"], alone)
        return {"params": weights["params"], "stats": mean}

    return statistics_step


def _norm(tree) -> jax.Array:
    """The global L2 norm.

    Scales and biases, two thirds of the leaves, are put together: a sum less each to compile.
    """
    leaves = jax.tree.leaves(tree)
    vectors = [leaf for leaf in leaves if leaf.ndim == 1]
    others = [leaf for leaf in leaves if leaf.ndim != 1]
    together = [jnp.concatenate(vectors)] if vectors else []
    return jnp.sqrt(sum(jnp.vdot(leaf, leaf) for leaf in together + others))
