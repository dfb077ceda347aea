"""How much memory a large image takes, as the system sees it."""

import subprocess
import sys

import pytest

# VmHWM, not getrusage's ru_maxrss: that one starts at the size of the process that forked us.
OCNET = """
import jax, jax.numpy as jnp, numpy as np
from flax import nnx
from openseg_jax.bridge.reference import reference_config
from openseg_jax.compilation import compiler_options
from openseg_jax.models import segmenter

model = reference_config("base_ocnet", "deepbase_resnet101_dilated8", 19)
network = segmenter.build(model, np.random.default_rng(0))
params, stats, graphs = segmenter.graphs(network)
params, stats = jax.device_put((params, stats))
image = jnp.zeros((1, 1024, 2048, 3)).block_until_ready()
run = jax.jit(
    lambda params, stats, x: nnx.merge(graphs["eval"], params, stats)(x)[-1],
    compiler_options=compiler_options(type(network.backbone)),  # as the evaluator does
)

def resident(what):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(what))

before = resident("VmRSS")
run(params, stats, image).block_until_ready()
print(resident("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_ocnet_on_a_whole_cityscapes_image_stays_below_4_gb(environment):
    """Its 33,153 x 33,153 attention matrix alone would take 4.4 GB."""
    done = subprocess.run(
        [sys.executable, "-c", OCNET], env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 4e9
