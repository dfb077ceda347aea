"""The kernels that a traced step is counted as, of ours and of PyTorch's."""

import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from openseg_jax.errors import UserError
from openseg_jax.models.layers import self_attention

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from benchmarking.case import Case  # noqa: E402
from benchmarking.roofline import (  # noqa: E402
    Chip,
    Kernel,
    kernels,
    seconds,
    total_bytes,
    total_flops,
)

SQUARE = jax.ShapeDtypeStruct((64, 64), jnp.float32)
ONE = 64 * 64 * 4  # bytes of it


def kernels_of(function, *inputs):
    return kernels(jax.make_jaxpr(function)(*inputs).jaxpr)


def test_a_product_reads_its_factors_and_writes_itself():
    (product,) = kernels_of(jnp.matmul, SQUARE, SQUARE)
    assert product == Kernel("dot_general", 2 * 64**3, 3 * ONE, times=1, wide=True)


def test_what_is_between_products_is_one_kernel():
    def two_layers(x, first, second):
        return jnp.maximum(2 * (x @ first) + 1, 0).T @ second

    found = kernels_of(two_layers, SQUARE, SQUARE, SQUARE)
    assert [kernel.kind for kernel in found] == ["dot_general", "fusion", "dot_general"]
    assert found[1].bytes == 2 * ONE


def test_what_no_result_needs_is_not_counted():
    def gradient(x, w):
        product, backward = jax.vjp(jnp.matmul, x, w)  # the forward product is for nobody
        return backward(jnp.ones_like(product))[0]

    assert sum(kernel.kind == "dot_general" for kernel in kernels_of(gradient, SQUARE, SQUARE)) == 1


def test_reductions_side_by_side_share_what_they_read():
    def moments(x, w):
        y = x @ w
        return y.sum(0), jnp.square(y).sum(0)

    product, reduction = kernels_of(moments, SQUARE, SQUARE)
    assert reduction.bytes == ONE + 2 * 64 * 4


def test_reductions_in_two_stages_share_what_the_first_reads():
    """As the moments of a batch norm: image by image, then over the images."""

    def moments(x, w):
        y = (x @ w).reshape(4, 16, 64)
        return y.sum(1).sum(0), jnp.square(y).sum(1).sum(0)

    _, *reductions = kernels_of(moments, SQUARE, SQUARE)
    assert sum(kernel.bytes >= ONE for kernel in reductions) == 1


def test_reductions_of_which_one_needs_the_other_read_anew():
    def variance(x, w):
        y = x @ w
        return jnp.square(y - y.sum(0)).sum(0)

    product, total, squares = kernels_of(variance, SQUARE, SQUARE)
    assert total.bytes == ONE + 64 * 4 and squares.bytes == ONE + 2 * 64 * 4


def test_a_view_of_an_array_is_that_array():
    found = kernels_of(lambda x, w: (x.T @ w).reshape(32, 128) @ w.reshape(128, 32), SQUARE, SQUARE)
    assert [kernel.bytes for kernel in found] == [3 * ONE, 2 * ONE + 32 * 32 * 4]


def test_a_program_that_is_not_understood_is_refused():
    def products(x):
        return jax.lax.reduce_window(x, 1.0, jax.lax.mul, (2, 2), (1, 1), "VALID")

    with pytest.raises(UserError, match="reduce_window"):
        kernels_of(products, SQUARE)


def test_a_residual_sum_is_written_rather_than_made_anew():
    """Else each of n blocks would read what all blocks before it made."""

    def blocks(count):
        def network(x, w):
            for _ in range(count):
                x = x + jnp.tanh(x) @ w
            return x

        return total_bytes(kernels_of(network, SQUARE, SQUARE))

    assert blocks(40) == pytest.approx(2 * blocks(20), rel=0.05)


def test_a_loop_counts_for_each_turn_and_a_platform_s_choice_as_the_plain_one():
    def loop(x, w):
        def turn(x, _):
            plain = lambda x: x @ w  # noqa: E731
            return jax.lax.platform_dependent(x, cpu=lambda x: (x @ w) @ w, default=plain), None

        return jax.lax.scan(turn, x, length=5)[0]

    assert kernels_of(loop, SQUARE, SQUARE) == [Kernel("dot_general", 2 * 64**3, 3 * ONE, 5, True)]


def test_a_loop_that_no_result_needs_is_not_counted():
    def gradient(x, w):
        loop = lambda x: jax.lax.scan(lambda y, _: (y @ w, None), x, length=5)[0]  # noqa: E731
        loop(x)
        return x @ w

    assert total_flops(kernels_of(gradient, SQUARE, SQUARE)) == 2 * 64**3


def test_a_kernel_takes_the_longer_of_its_two_times():
    chip = Chip("a chip", flops=10, wide_flops=5, bandwidth=10)
    program = [Kernel("a", flops=100, bytes=1, times=2), Kernel("b", flops=1, bytes=30)]
    assert seconds(program, chip) == 2 * 10 + 3
    assert seconds([Kernel("a", flops=100, bytes=1, wide=True)], chip) == 20


@pytest.mark.parametrize("net", ("ocr:resnet18", "fcn:mobilenet_v2", "ocnet:resnet18"))
@pytest.mark.parametrize("mode", ("train", "eval"))
def test_both_sides_have_the_arithmetic_of_the_network(net, mode):
    pytest.importorskip("torch", reason="PyTorch")
    from benchmarking.eager import eager_kernels
    from benchmarking.jax_program import forward_macs, step_jaxpr

    case = Case(*net.split(":"), mode, (64, 128), 2, "bfloat16")
    flops = 2 * forward_macs(case) * (3 if mode == "train" else 1)
    ours, theirs = kernels(step_jaxpr(case)), eager_kernels(case)
    assert total_flops(ours) == pytest.approx(flops, rel=0.02)
    assert total_flops(theirs) == pytest.approx(flops, rel=0.02)
    # The same maps, of which eager PyTorch reads and writes some more often.
    assert 1 < total_bytes(theirs) / total_bytes(ours) < 1.5


def test_scores_of_chunks_of_queries_are_moved():
    """20 bytes a score: written, its maximum found, made a weight, summed, multiplied."""
    tokens = 4096
    x = jax.ShapeDtypeStruct((1, tokens, 64), jnp.bfloat16)
    moved = total_bytes(kernels_of(lambda x: self_attention(x, x, x), x))
    assert moved == pytest.approx(20 * tokens**2, rel=0.1)


def eager_kernels_of(function):
    """Those of a step of PyTorch's, by name: their bytes."""
    from benchmarking.eager import _Follow

    with _Follow() as follow:
        function()
    return [(kernel.kind, kernel.bytes) for kernel in follow.kernels]


def test_pytorch_s_norms_read_a_map_twice():
    torch = pytest.importorskip("torch", reason="PyTorch")
    x = torch.zeros(2, 4, 8, 8, requires_grad=True)
    norm = torch.nn.BatchNorm2d(4)
    (_, forward), *_ = [
        each for each in eager_kernels_of(lambda: norm(x)) if "native_batch_norm" in each[0]
    ]
    assert 3 * 2048 <= forward < 3.1 * 2048
    y = norm(x)
    backward = dict(eager_kernels_of(lambda: y.backward(x)))["native_batch_norm_backward"]
    assert 5 * 2048 <= backward < 5.1 * 2048


def test_pytorch_s_convolutions_add_a_bias_and_have_two_gradients():
    torch = pytest.importorskip("torch", reason="PyTorch")
    x = torch.zeros(1, 4, 8, 8, requires_grad=True)
    convolution = torch.nn.Conv2d(4, 4, 1)
    one, weight, bias = 1024, 64, 16
    found = eager_kernels_of(lambda: convolution(x))
    assert found == [("convolution", 2 * one + weight), ("bias", 2 * one + bias)]
    y = convolution(x)
    found = eager_kernels_of(lambda: y.backward(y.detach()))
    products = [moved for kind, moved in found if kind == "convolution_backward"]
    assert products == [2 * one + weight] * 2 and ("bias", one + bias) in found


def test_the_command_predicts_and_saves(tmp_path, monkeypatch, capsys):
    pytest.importorskip("torch", reason="PyTorch")
    import performance_page
    import roofline

    out = tmp_path / "roofline_a100.json"
    command = ["roofline.py", "--chip", "a100", "--nets", "fcn:resnet18", "--size", "32x64"]
    command += ["--batch", "2", "--image", "64x64", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", command)
    roofline.main()
    printed = capsys.readouterr().out
    assert "NVIDIA A100 80GB, bfloat16: 312 TFLOP/s" in printed and "not measured" in printed
    train, evaluation = json.loads(out.read_text())["cases"]
    assert train["case"]["mode"] == "train" and evaluation["case"]["batch"] == 1
    page = "<!-- benchmark: roofline_a100.json -->\n<!-- end -->"
    assert "| fcn:resnet18 train | 2 x 32x64 |" in performance_page.filled(page, tmp_path)


def test_a_network_without_a_twin_is_refused(monkeypatch):
    pytest.importorskip("torch", reason="PyTorch")
    import roofline

    monkeypatch.setattr(sys, "argv", ["roofline.py", "--nets", "ocr:nothing"])
    with pytest.raises(SystemExit, match="error: --nets ocr:nothing: there is no PyTorch twin"):
        roofline.main()
