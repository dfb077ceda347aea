"""Measures the context modules of OCNet, ISA and OCR beside PyTorch's, on feature maps alone.

    python scripts/benchmark_attention.py
    python scripts/benchmark_attention.py --sizes 64x64 --methods isa ocr

What a head has between its 3x3 convolution and its classifier, on 512 channels: attention with its
transforms, and the fusion. Forward in evaluation, and forward with backward in training, beside
the least that the machine allows: its best matrix product for the FLOP, its best copy for the
bytes of the maps and weights that go in and out. `scripts/performance_page.py` puts the results
into docs/performance.md. Needs PyTorch.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
from benchmarking import measuring, parts
from benchmarking.case import Program
from benchmarking.command_line import RESULTS, kept_cases, positive, require_torch, size
from flax import nnx

from openseg_jax.analysis import count_macs
from openseg_jax.compilation import compiler_options
from openseg_jax.errors import UserError
from openseg_jax.main import use_huge_pages
from openseg_jax.models.isa import ISAModule
from openseg_jax.models.ocnet import OCNetHead
from openseg_jax.models.ocr import OCRHead
from openseg_jax.models.resnet import ResNet
from openseg_jax.preprocessing import compute_dtype
from openseg_jax.progress import progress

METHODS = ("ocnet", "isa", "ocr")
SIZES = ((64, 64), (97, 97), (128, 128), (128, 256))
CHANNELS, KEY_CHANNELS, WINDOW, CLASSES = 512, 256, (8, 8), 19


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=size, nargs="+", default=SIZES, metavar="HEIGHTxWIDTH")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--rounds", type=positive, default=9, help="turns of each side")
    parser.add_argument("--add", action="store_true", help="keep what else is in the file")
    parser.add_argument("--part", help=argparse.SUPPRESS)  # what a child of ours measures
    options = parser.parse_args()
    use_huge_pages()
    if options.part:
        print(json.dumps(measure(**json.loads(options.part))))
        return
    try:
        require_torch()
        dtype = compute_dtype("auto").name
        machine = parts.machine(dtype) | {"bandwidth": bandwidth()}
        out = RESULTS / f"attention_{machine['platform']}.json"
        cases = kept_cases(out, machine) if options.add else []
    except UserError as error:
        sys.exit(f"error: {error}")
    rows = list(itertools.product(options.methods, options.sizes, ("eval", "train")))
    with progress(rows, unit="row") as bar:
        for method, shape, mode in bar:
            bar.set_description(f"{method} {shape[0]}x{shape[1]} {mode}")
            found = measure_apart(method, shape, mode, dtype, options.rounds)
            found |= {limit: machine[limit] for limit in ("peak_flops", "bandwidth")}
            cases = [each for each in cases if not same(each, found)] + [found]
            out.write_text(json.dumps({"machine": machine, "cases": cases}, indent=1) + "\n")
    print(f"Saved in {out}.")


def same(one: dict, other: dict) -> bool:
    """Whether both are of the same module, map and pass."""
    return all(json.dumps(one[key]) == json.dumps(other[key]) for key in ("method", "size", "mode"))


def bandwidth() -> float:
    """Bytes a second of a large copy, read and written."""
    array = jnp.zeros(2**26, jnp.float32)
    copy = jax.jit(lambda x: x + 1)
    copy(array).block_until_ready()
    seconds = []
    for _ in range(5):
        begin = time.perf_counter()
        copy(array).block_until_ready()
        seconds.append(time.perf_counter() - begin)
    return 2 * array.nbytes / min(seconds)


class Context(nnx.Module):
    """Our module: pixels `(n, h, w, c)`, and for OCR regions `(n, h, w, k)` -> `(n, h, w, c)`."""

    def __init__(self, method: str, channels: int, key_channels: int, rng):
        self.method = method
        options = dict(dropout=0.0, rng=rng)
        if method == "isa":
            self.module = ISAModule(
                channels, key_channels, channels, (WINDOW,), norm="bn", **options
            )
            return
        head = {"ocnet": OCNetHead, "ocr": OCRHead}[method]
        head = head((1, 1), 1, channels=channels, key_channels=key_channels, **options)
        self.attention, self.fuse = head.attention, head.fuse
        self.gather = head.gather if method == "ocr" else None

    def __call__(self, pixels: jax.Array, regions: jax.Array) -> jax.Array:
        if self.method == "isa":
            return self.module(pixels)
        if self.method == "ocr":
            context = self.attention(pixels, self.gather(regions, pixels))
        else:
            context = self.attention(pixels)
        return self.fuse(context, pixels)


def inputs(shape: tuple[int, int], channels: int) -> list[np.ndarray]:
    """Pixels and regions of one image, of noise."""
    rng = np.random.default_rng(0)
    return [rng.standard_normal((1, *shape, width), np.float32) for width in (channels, CLASSES)]


def forward(method: str, mode: str, channels: int = CHANNELS, key_channels: int = KEY_CHANNELS):
    """(a function of weights, pixels and regions; its weights) of our module."""
    context = Context(method, channels, key_channels, np.random.default_rng(0))
    context = nnx.view(
        context,
        deterministic=mode == "eval",
        use_running_average=mode == "eval",
        raise_if_not_found=False,
    )
    graph, params, others = nnx.split(context, nnx.Param, ...)
    params, others = nnx.to_pure_dict(params), nnx.to_pure_dict(others)

    def apply(params, pixels, regions):
        """Also the running statistics, which training has to compute."""
        network = nnx.merge(graph, params, others)
        output = network(pixels, regions)
        return output, nnx.state(network, nnx.BatchStat) if mode == "train" else None

    return apply, params


def jax_program(method: str, shape, mode: str, dtype: str) -> Program:
    """Ours; in "train" with the gradients of all weights and of the pixels."""
    apply, params = forward(method, mode)
    pixels, regions = (jnp.asarray(x, dtype) for x in inputs(shape, CHANNELS))
    params = jax.device_put(params)

    def backward(params, pixels, regions):
        output, pull, statistics = jax.vjp(
            lambda *known: apply(*known, regions), params, pixels, has_aux=True
        )
        return pull(output), statistics

    options = compiler_options(ResNet)  # those of most networks with such a head
    step = jax.jit(apply if mode == "eval" else backward, compiler_options=options)
    last = {}

    def start():
        last["output"] = step(params, pixels, regions)

    return Program(start, lambda: jax.block_until_ready(last), lambda: None, lambda: None, {})


def torch_program(method: str, shape, mode: str, dtype: str) -> Program:
    """PyTorch's, likewise; channels last."""
    import torch
    from torch_twins import heads

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    module = torch_module(heads, method).to(device, memory_format=torch.channels_last)
    module.train(mode == "train")
    tensors = (torch.from_numpy(x).permute(0, 3, 1, 2).to(device) for x in inputs(shape, CHANNELS))
    pixels, regions = (x.to(getattr(torch, dtype)) for x in tensors)
    pixels.requires_grad_(mode == "train")
    last = {}

    def run():
        objects = [heads.gather_objects(regions, pixels)] if method == "ocr" else []
        return module(pixels, *objects)

    def start():
        with torch.autocast(device.type, getattr(torch, dtype), enabled=dtype != "float32"):
            if mode == "eval":
                with torch.inference_mode():
                    last["output"] = run()
                return
            output = run()
        module.zero_grad()
        pixels.grad = None
        output.backward(output.detach())
        last["output"] = output

    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    return Program(start, wait, lambda: None, lambda: None, {})


def torch_module(heads, method: str, channels: int = CHANNELS, key_channels: int = KEY_CHANNELS):
    """The twin of `Context`; OCR's takes pixels and gathered objects.

    By PyTorch's attention kernels where they are faster: on CPU not for ISA, whose values are wider
    than its keys (294 instead of 286 ms on 97x97 pixels).
    """
    if method == "ocnet":
        return heads.BaseOC(channels, key_channels, 0.0, True)
    if method == "isa":
        fused = jax.default_backend() != "cpu"
        return heads.ISAModule(channels, key_channels, WINDOW, 0.0, fused)
    return heads.SpatialOCR(channels, key_channels, 0.0)


def measure_apart(method: str, shape: tuple[int, int], mode: str, dtype: str, rounds: int) -> dict:
    """`measure` in several processes one after the other, which share the rounds."""
    about = {"method": method, "shape": shape, "mode": mode, "dtype": dtype}
    command = [sys.executable, __file__, "--part"]
    parts = [json.dumps(about | {"rounds": share}) for share in measuring.shares(rounds)]
    outputs = [
        subprocess.run([*command, part], stdout=subprocess.PIPE, check=True) for part in parts
    ]
    return measuring.together([json.loads(each.stdout.splitlines()[-1]) for each in outputs])


def measure(method: str, shape: tuple[int, int], mode: str, dtype: str, rounds: int) -> dict:
    """Times of both sides in turns, and what has to be computed and moved."""
    programs = {
        "jax": jax_program(method, shape, mode, dtype),
        "torch": torch_program(method, shape, mode, dtype),
    }
    before = measuring.load()
    found = measuring.interleave(programs, rounds)
    return {
        "method": method,
        "size": shape,
        "mode": mode,
        **found,
        "load": [before, measuring.load()],
        **costs(method, shape, mode, jnp.dtype(dtype).itemsize),
    }


def costs(method: str, shape: tuple[int, int], mode: str, itemsize: int = 4) -> dict[str, int]:
    """Parameters, FLOP (two a multiply-accumulate), and the bytes that must be moved.

    The backward pass has twice the products of the forward pass; it reads the maps and weights
    again and writes as many gradients.
    """
    apply, params = forward(method, "eval")
    maps = inputs(shape, CHANNELS)
    macs = count_macs(jax.make_jaxpr(apply)(params, *maps).jaxpr)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
    pixels = math.prod(shape) * CHANNELS
    passes = 3 if mode == "train" else 1
    moved = itemsize * (2 * pixels + (maps[1].size if method == "ocr" else 0)) + 4 * parameters
    return {"parameters": parameters, "flop": 2 * macs * passes, "bytes": moved * passes}


if __name__ == "__main__":
    main()
