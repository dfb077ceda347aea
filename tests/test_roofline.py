"""The kernels that a step is counted as, of ours and of PyTorch's, and their memory."""

import json
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from benchmarking.case import Case  # noqa: E402
from benchmarking.compiled import kernels  # noqa: E402
from benchmarking.roofline import Chip, Kernel, seconds, total_bytes, total_flops  # noqa: E402

from openseg_jax.errors import UserError  # noqa: E402
from openseg_jax.targets import find_target  # noqa: E402

PROGRAM = """HloModule jit_step, is_scheduled=true

%fused_product (p0: bf16[64,32], p1: bf16[32,16]) -> bf16[64,16] {
  %p0 = bf16[64,32]{1,0} parameter(0)
  %p1 = bf16[32,16]{1,0} parameter(1)
  %product = f32[64,16]{1,0} dot(%p0, %p1), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  ROOT %rounded = bf16[64,16]{1,0} convert(%product)
}

%fused_slice (p2: f32[5,8,4], p3: s32[]) -> f32[8,4] {
  %p2 = f32[5,8,4]{2,1,0} parameter(0)
  %p3 = s32[] parameter(1)
  %slice = f32[1,8,4]{2,1,0} dynamic-slice(%p2, %p3, %p3, %p3), dynamic_slice_sizes={1,8,4}
  ROOT %flat = f32[8,4]{1,0} bitcast(%slice)
}

%fused_update (p4: f32[5,8,4], p5: f32[8,4], p6: s32[]) -> f32[5,8,4] {
  %p4 = f32[5,8,4]{2,1,0} parameter(0)
  %p5 = f32[8,4]{1,0} parameter(1)
  %p6 = s32[] parameter(2)
  %one = f32[1,8,4]{2,1,0} bitcast(%p5)
  %whole = f32[5,8,4]{2,1,0} bitcast(%p4)
  ROOT %written = f32[5,8,4]{2,1,0} dynamic-update-slice(%whole, %one, %p6, %p6, %p6)
}

%body (state: (s32[], f32[5,8,4])) -> (s32[], f32[5,8,4]) {
  %state = (s32[], f32[5,8,4]{2,1,0}) parameter(0)
  %turn = s32[] get-tuple-element(%state), index=0
  %stack = f32[5,8,4]{2,1,0} get-tuple-element(%state), index=1
  %read = f32[8,4]{1,0} fusion(%stack, %turn), kind=kLoop, calls=%fused_slice
  %new = f32[5,8,4]{2,1,0} fusion(%stack, %read, %turn), kind=kLoop, calls=%fused_update
  ROOT %next = (s32[], f32[5,8,4]{2,1,0}) tuple(%turn, %new)
}

%condition (state.1: (s32[], f32[5,8,4])) -> pred[] {
  %state.1 = (s32[], f32[5,8,4]{2,1,0}) parameter(0)
  ROOT %more = pred[] constant(true)
}

ENTRY %main (x: bf16[2,8,8,32], k: bf16[16,3,3,32], g: bf16[2,8,8,16]) -> bf16[64,16] {
  %x = bf16[2,8,8,32]{3,2,1,0} parameter(0)
  %k = bf16[16,3,3,32]{3,2,1,0} parameter(1)
  %g = bf16[2,8,8,16]{3,2,1,0} parameter(2)
  %conv = (bf16[2,8,8,16]{3,2,1,0}, u8[0]{0}) custom-call(%x, %k), window={size=3x3 pad=1_1x1_1}, \
dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convForward", metadata={op_name="a(b)"}
  %of_kernel = (bf16[16,3,3,32]{3,2,1,0}, u8[0]{0}) custom-call(%x, %g), \
window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, \
custom_call_target="__cudnn$convBackwardFilter"
  %of_input = (bf16[2,8,8,32]{3,2,1,0}, u8[0]{0}) custom-call(%g, %k), \
window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, \
custom_call_target="__cudnn$convBackwardInput"
  %left = bf16[64,32]{1,0} bitcast(%x)
  %right = bf16[32,16]{1,0} bitcast(%k)
  %matrix = bf16[64,16]{1,0} fusion(%left, %right), kind=kCustom, calls=%fused_product
  %zero = s32[] constant(0)
  %stacked = f32[5,8,4]{2,1,0} copy(%g)
  %begin = (s32[], f32[5,8,4]{2,1,0}) tuple(%zero, %stacked)
  %loop = (s32[], f32[5,8,4]{2,1,0}) while(%begin), condition=%condition, body=%body, \
backend_config={"known_trip_count":{"n":"5"}}
  ROOT %twice = bf16[64,16]{1,0} add(%matrix, %matrix)
}
""".replace("\\\n", "")
MAP, KERNEL, GRADIENT = 2 * 2 * 64 * 32, 2 * 16 * 9 * 32, 2 * 2 * 64 * 16  # bytes


def test_convolutions_of_a_compiled_program():
    found = {kernel.kind.removeprefix("__cudnn$conv"): kernel for kernel in kernels(PROGRAM)}
    flops = 2 * (2 * 64 * 16) * (9 * 32)
    for kind in ("Forward", "BackwardFilter", "BackwardInput"):
        assert found[kind].flops == flops and not found[kind].wide
        assert found[kind].bytes == MAP + KERNEL + GRADIENT


def test_products_and_elementwise_kernels_of_a_compiled_program():
    product, last = (kernel for kernel in kernels(PROGRAM) if kernel.bytes in (7168, 4096))
    assert product == Kernel("fusion", 2 * 64 * 32 * 16, 2 * (64 * 32 + 32 * 16 + 64 * 16))
    assert last == Kernel("add", 0, 2 * 2 * 64 * 16)  # reads its operand once


@pytest.mark.parametrize(
    "line",
    [
        '%y = bf16[64,16]{1,0} custom-call(%left, %right), custom_call_target="__cublas$gemm"',
        "%y = f32[2,8,8,16]{3,2,1,0} convolution(%x, %k), window={size=3x3}",
        "%y = f32[8,4]{1,0} conditional(%zero, %g, %g), branch_computations={%body, %body}",
        "%y = (s32[]) while(%begin), condition=%condition, body=%body",
    ],
)
def test_what_the_count_does_not_know_is_refused(line):
    with pytest.raises(UserError, match="does not know"):
        kernels(PROGRAM.replace("  %zero = ", f"  {line}\n  %zero = "))


def test_loops_of_a_compiled_program_move_slices():
    read, write = (kernel for kernel in kernels(PROGRAM) if kernel.times == 5)
    one = 4 * 8 * 4
    assert read.bytes == 2 * one + 4 and write.bytes == 2 * one + 4  # and the turn's number


def test_a_kernel_takes_the_longer_of_its_two_times():
    chip = Chip("a chip", flops=10, wide_flops=5, bandwidth=10)
    program = [Kernel("a", flops=100, bytes=1, times=2), Kernel("b", flops=1, bytes=30)]
    assert seconds(program, chip) == 2 * 10 + 3
    assert seconds([Kernel("a", flops=100, bytes=1, wide=True)], chip) == 20


def gpu_compiler_or_skip():
    try:
        find_target("gpu-h200")
    except UserError as error:
        pytest.skip(str(error))


@pytest.mark.slow
@pytest.mark.parametrize("net", ("ocr:resnet18", "fcn:mobilenet_v2", "ocnet:resnet18"))
@pytest.mark.parametrize("mode", ("train", "eval"))
def test_both_sides_have_the_arithmetic_of_the_network(net, mode):
    pytest.importorskip("torch", reason="PyTorch")
    gpu_compiler_or_skip()
    from benchmarking.eager import eager_step
    from benchmarking.jax_program import compile_for, forward_macs

    case = Case(*net.split(":"), mode, (128, 256), 2, "bfloat16")
    flops = 2 * forward_macs(case) * (3 if mode == "train" else 1)
    ours = kernels(compile_for(case, find_target("gpu-h200")).as_text())
    theirs, _ = eager_step(case)
    # The phases of 17x33 pixels at dilation 4, for the gradient of a kernel, are of 20x36.
    assert 0.99 * flops < total_flops(ours) < 1.05 * flops
    assert total_flops(theirs) == pytest.approx(flops, rel=0.02)
    # The same maps, of which eager PyTorch reads and writes some more often.
    assert 0.9 < total_bytes(theirs) / total_bytes(ours) < 2


@pytest.mark.slow
@pytest.mark.parametrize("net", ("fcn:resnet50", "isa:resnet50", "ocr:mobilenet_v2"))
def test_no_gradient_becomes_a_convolution_with_a_window_as_large_as_the_map(net):
    """What XLA:GPU makes of those of dilated kernels: many times as slow as cuDNN's."""
    gpu_compiler_or_skip()
    from benchmarking.jax_program import compile_for

    case = Case(*net.split(":"), "train", (129, 257), 2, "bfloat16")
    text = compile_for(case, find_target("gpu-a100")).as_text()
    windows = re.findall(r"window=\{size=(\d+)x(\d+)", text)
    assert len(windows) > 50
    assert max(int(side) for window in windows for side in window) <= 19  # as OCR's 19 objects


def test_attention_is_one_kernel_and_a_view_is_none():
    torch = pytest.importorskip("torch", reason="PyTorch")
    from benchmarking.eager import Follow, _Attention

    query, key = (torch.zeros(2, 32, 8, requires_grad=True) for _ in range(2))
    value = torch.zeros(2, 32, 16, requires_grad=True)
    with Follow() as follow:
        context = _Attention.apply(follow, query, key, value)
        torch.ops.aten._unsafe_view(context.detach(), [64, 16])
        context.backward(context.detach())
    forward, backward = follow.kernels
    assert forward.flops == 2 * 2 * 32 * 32 * (8 + 16) and forward.bytes == 4 * 2 * 32 * 48
    assert backward.flops == 2 * 2 * 32 * 32 * (3 * 8 + 2 * 16)
    assert backward.bytes == 4 * 2 * 32 * (48 + 16 + 32)


def test_memory_is_that_of_the_tensors_at_hand():
    torch = pytest.importorskip("torch", reason="PyTorch")
    from benchmarking.eager import Follow

    with Follow() as follow:
        x = torch.zeros(1024)  # 4 KiB
        follow.start_anew()
        y = torch.exp(x)
        z = y.view(2, 512).sum()
        del y, z
        torch.exp(x)
    assert follow.peak == 2 * 4096 + 4


def eager_kernels_of(function):
    """Those of a step of PyTorch's, by name: their bytes."""
    from benchmarking.eager import Follow

    with Follow() as follow:
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


@pytest.mark.slow
def test_the_command_predicts_and_saves(tmp_path, monkeypatch, capsys):
    pytest.importorskip("torch", reason="PyTorch")
    gpu_compiler_or_skip()
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
