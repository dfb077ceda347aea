"""The training step as a whole, on a network of two convolutions: what it moves, and averages."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from openseg_jax import config_checks
from openseg_jax.config import completed, default_config, to_dict
from openseg_jax.errors import UserError
from openseg_jax.models.fcn import FCNHead
from openseg_jax.models.layers import ConvNormAct
from openseg_jax.models.segmenter import Segmenter
from openseg_jax.parallel import batch_specs, make_mesh, replicate, shard_batch
from openseg_jax.preprocessing import normalize
from openseg_jax.training.checkpoint import Checkpoints
from openseg_jax.training.step import create_state, make_statistics_step, make_train_step


class Backbone(nnx.Module):
    """Two maps of the size of the image."""

    widths = (4, 6)
    high_resolution = False

    def __init__(self, rng):
        self.layer1 = ConvNormAct(3, 4, 3, bias=False, norm="bn", rng=rng)
        self.layer2 = ConvNormAct(4, 6, 3, bias=False, norm="bn", rng=rng)

    def __call__(self, images):
        first = self.layer1(images)
        return [first, self.layer2(first)]


def settings(steps=8, batch_size=4, **optimizer):
    config = default_config()
    config.data.name, config.model.num_classes = "toy_street", 10
    config.train.update(steps=steps, batch_size=batch_size)
    config.optimizer.update(learning_rate=0.1, head_lr_multiplier=2.0, **optimizer)
    return config


def batches(count, size, seed=1):
    rng = np.random.default_rng(seed)
    return [
        {
            "image": rng.integers(0, 256, (size, 16, 24, 3), dtype=np.uint8),
            "label": rng.choice([0, 1, 2, 255], (size, 16, 24)).astype(np.uint8),
            "box": np.tile(np.int32([0, 0, 16, 24]), (size, 1)),
            "brightness": rng.integers(-10, 11, size, dtype=np.int32),
        }
        for _ in range(count)
    ]


class Training:
    """Steps through batches on one device, as the trainer does."""

    def __init__(self, config, batch, dropout=0.0):
        rng = np.random.default_rng(0)
        backbone = Backbone(rng)
        head = FCNHead(
            backbone.widths, 10, channels=5, aux_channels=5, dropout=dropout, norm="bn", rng=rng
        )
        network = Segmenter(backbone, head, "fcn", "bn")
        self.config, self.specs = config, batch_specs(batch)
        self.mesh = make_mesh(config.mesh, config.train.batch_size, 16, jax.devices()[:1])
        self.first, self.graphs = create_state(config, network)
        self.state = replicate(self.first, self.mesh)
        self.step = make_train_step(config, self.graphs["train"], self.mesh, self.specs)

    def run(self, batches):
        """The states after each batch, on the host."""
        states = []
        for batch in batches:
            self.state, _ = self.step(self.state, shard_batch(batch, self.mesh))
            states.append(jax.tree.map(np.array, self.state))
        return states


def assert_equal(first, second):
    jax.tree.map(np.testing.assert_array_equal, first, second)


def joined(pair):
    return {name: np.concatenate([batch[name] for batch in pair]) for name in pair[0]}


def test_accumulated_batches_train_as_one_large_batch():
    """But for batch norm, which is frozen here, and with the loss of each part its own."""
    small = batches(8, 2)
    large = [joined(small[i : i + 2]) for i in range(0, 8, 2)]
    parts = settings(8, 2, accumulate_steps=2, warmup_steps=4, clip_norm=0.5)
    whole = settings(4, 4, warmup_steps=2, clip_norm=0.5)
    whole.loss.shards = 2
    ends = []
    for config, stream in ((parts, small), (whole, large)):
        config.train.freeze_norm = True
        training = Training(config, stream[0])
        ends.append(training.run(stream)[-1])
        assert_equal(ends[-1]["stats"], training.first["stats"])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        *(end["params"] for end in ends),
    )


def test_frozen_parts_stay_as_they_are():
    config = settings()
    config.train.frozen = ("backbone.layer1",)
    stream = batches(2, 4)
    training = Training(config, stream[0])
    before, after = training.first, training.run(stream)[-1]
    pair = before["params"]["backbone"], after["params"]["backbone"]
    assert_equal(*(backbone["layer1"] for backbone in pair))
    moved = jax.tree.map(differ, *(backbone["layer2"] for backbone in pair))
    assert all(jax.tree.leaves(moved))
    # Not so the statistics of their batch norm; for these there is `freeze_norm`.
    assert all(jax.tree.leaves(jax.tree.map(differ, before["stats"], after["stats"])))


def differ(a, b):
    return np.abs(a - b).max() > 0


def test_a_part_that_is_not_there_cannot_be_frozen():
    config = settings()
    config.train.frozen = ("backbone.layer9",)
    with pytest.raises(UserError, match="'backbone.layer9'.*backbone.layer1, backbone.layer2"):
        Training(config, batches(1, 4)[0])


# Averages of weights.

SWA_STEPS = 20  # 15, then cycles of 2, the last cut short


@pytest.fixture(scope="module")
def averaging():
    """A training with the schedule swa_poly, its batches, and its state after each."""
    stream = batches(SWA_STEPS, 4)
    training = Training(settings(SWA_STEPS, schedule="swa_poly"), stream[0], dropout=0.2)
    return training, stream, training.run(stream)


def weights_of(state):
    return {name: state[name] for name in ("params", "stats")}


def test_the_schedule_swa_averages_the_ends_of_its_cycles(averaging):
    _, _, states = averaging
    for state in states[:15]:
        assert_equal(state["average"], weights_of(state))
    ends = []
    for done, state in enumerate(states[14:], start=15):
        if done in (15, 17, 19, 20):
            ends.append(weights_of(state))
        expected = jax.tree.map(lambda *each: np.mean(each, 0), *ends)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6),
            *(state["average"], expected),
        )


def test_a_run_that_averages_resumes_bit_for_bit(averaging, tmp_path):
    training, stream, states = averaging
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(16, replicate(states[15], training.mesh), {})
        training.state = checkpoints.restore(16, training.first, training.mesh)
    assert_equal(training.run(stream[16:]), states[16:])


def test_a_checkpoint_without_an_average_starts_one_from_its_weights(averaging, tmp_path):
    training, stream, states = averaging
    saved = {name: value for name, value in states[3].items() if name != "average"}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(4, replicate(saved, training.mesh), {})
        training.state = checkpoints.restore(4, training.first, training.mesh)
    assert_equal(training.run(stream[4:]), states[4:])


def test_statistics_of_averaged_weights_are_the_mean_of_those_of_batches(averaging):
    training, stream, states = averaging
    graph, config = training.graphs["train"], training.config
    statistics_step = make_statistics_step(config, graph, training.mesh, training.specs)
    average = states[-1]["average"]
    weights = replicate(average, training.mesh)
    for index, batch in enumerate(stream[:3]):
        number = replicate(np.int32(index), training.mesh)
        weights = statistics_step(weights, shard_batch(batch, training.mesh), number)
    assert_equal(weights["params"], average["params"])
    layer = nnx.merge(graph, average["params"], average["stats"]).backbone.layer1
    maps = [
        layer.conv(
            normalize(batch["image"], config.data, jnp.float32, batch["brightness"], batch["box"])
        )
        for batch in stream[:3]
    ]
    found = weights["stats"]["backbone"]["layer1"]["norm_act"]["bn"]
    for name, expected in (
        ("mean", [x.mean((0, 1, 2)) for x in maps]),
        ("var", [x.var((0, 1, 2), ddof=1) for x in maps]),
    ):
        np.testing.assert_allclose(found[name], np.mean(expected, 0), rtol=1e-4, atol=1e-5)
    renewed = jax.tree.map(differ, weights["stats"], average["stats"])
    assert all(jax.tree.leaves(renewed))


def test_two_averages_at_once_are_refused():
    config = settings(schedule="swa_poly")
    config.augment.crop = (64, 96)
    config_checks.validate(config)
    config.train.ema_decay = 0.99
    with pytest.raises(UserError, match="config.train.ema_decay is 0.99: use 0.*swa_poly"):
        config_checks.validate(config)


def test_keys_that_a_saved_config_lacks_have_their_defaults():
    config = to_dict(settings())
    saved = to_dict(settings())
    del saved["train"]["ema_decay"], saved["model"]["remat"]
    assert completed(saved) == config
    config_checks.check_resumable(saved, config)
    config_checks.check_same_network(saved, config)
    config["train"]["ema_decay"] = 0.9
    with pytest.raises(UserError, match="train.ema_decay: 0.0 -> 0.9"):
        config_checks.check_resumable(saved, config)
