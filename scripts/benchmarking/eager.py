"""PyTorch's eager step: its kernels, one an operation with its operands in memory; its memory."""

from __future__ import annotations

import math
from unittest import mock

import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from torch_twins import fold_batch_norm

from benchmarking.case import Case
from benchmarking.roofline import Kernel
from benchmarking.torch_program import images_of, step_of, twin_of

# Operands that are read in a second pass: the map after its statistics are known, and with the sums
# of the gradient.
READ_TWICE = {
    "_native_batch_norm_legit": (0,),
    "native_batch_norm": (0,),
    "native_batch_norm_backward": (0, 1),
}
ONLY_WRITTEN = {"copy_", "fill_", "zero_"}  # their first operand
# Operations that write nothing.
IDLE = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view"}


def eager_step(case: Case) -> tuple[list[Kernel], int]:
    """The kernels and the peak memory in bytes of one step of the twin.

    It is only followed: nothing is computed or allocated. Followed is PyTorch on a CPU, autocast as
    there, and its optimizer, which takes one parameter after the other. Of a GPU's is that a
    convolution adds its bias in a pass of its own, and that attention is one kernel, forward and
    backward. What cuDNN's kernels work in is not counted as memory.
    """
    follow = Follow()

    def attention(query, key, value):
        return _Attention.apply(follow, query, key, value)

    fused = mock.patch.object(F, "scaled_dot_product_attention", attention)
    with FakeTensorMode(allow_non_fake_inputs=True), fused:
        twin = _channels_last(twin_of(case))
        if case.mode == "eval":
            fold_batch_norm(twin, torch.zeros(1, 3, 65, 65))
        images = images_of(case).contiguous(memory_format=torch.channels_last)
        _, step = step_of(case, twin, images)
        with follow:
            step()  # after which the optimizer has its momentum
            follow.start_anew()
            step()
    return follow.kernels, follow.peak


def _channels_last(twin: torch.nn.Module) -> torch.nn.Module:
    """`twin.to(memory_format=torch.channels_last)`, which parameters without values refuse."""
    for module in twin.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.ndim == 4:
                values = parameter.detach().contiguous(memory_format=torch.channels_last)
                setattr(module, name, torch.nn.Parameter(values))
    return twin


class Follow(TorchDispatchMode):
    """Notes down the kernels of operations, and the most bytes that their tensors fill at once."""

    def __init__(self):
        super().__init__()
        self.kernels: list[Kernel] = []
        self.peak = 0
        self._storages: dict[int, tuple[StorageWeakRef, int]] = {}
        self._total = 0  # of these, of which some may be gone

    def start_anew(self) -> None:
        """Forgets what was noted down; what is in memory stays."""
        self.kernels, self.peak = [], 0

    def _see(self, values) -> None:
        """Tensors among `values` are in memory until they are gone."""
        for tensor in tree_leaves(values):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                _, before = self._storages.get(storage._cdata, (None, 0))
                self._storages[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
                self._total += storage.nbytes() - before
        if self._total > self.peak:
            self._storages = {
                key: each for key, each in self._storages.items() if not each[0].expired()
            }
            self._total = sum(size for _, size in self._storages.values())
            self.peak = max(self.peak, self._total)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function.namespace != "aten":  # questions, such as for the device
            return function(*args, **kwargs)
        outputs = NotImplemented
        # Resizing is one kernel, which inference would have in pieces.
        if function.overloadpacket is not torch.ops.aten.upsample_bilinear2d:
            with self:  # what consists of other operations is followed into them
                outputs = function.decompose(*args, **kwargs)
        if outputs is NotImplemented:
            outputs = function(*args, **kwargs)
            self._see((args, kwargs, outputs))
            name = function.overloadpacket.__name__
            if not function.is_view and name not in IDLE:
                self.kernels += _kernels(name, args, kwargs, outputs)
        return outputs


class _Attention(torch.autograd.Function):
    """Attention whose scores stay on the chip, and are computed again for the gradients."""

    @staticmethod
    def forward(context, follow: Follow, query, key, value):
        output = query.new_empty(*query.shape[:-1], value.shape[-1])
        context.follow = follow
        context.save_for_backward(query, key, value, output)
        pairs = 2 * math.prod(query.shape[:-1]) * key.shape[-2]
        flops = pairs * (query.shape[-1] + value.shape[-1])
        follow.kernels.append(_kernel("attention", flops, query, key, value, output))
        return output

    @staticmethod
    def backward(context, gradient):
        query, key, value, output = arrays = context.saved_tensors
        gradients = [torch.empty_like(each) for each in (query, key, value)]
        pairs = 2 * math.prod(query.shape[:-1]) * key.shape[-2]
        flops = pairs * (3 * query.shape[-1] + 2 * value.shape[-1])
        moved = _kernel("attention_backward", flops, *arrays, gradient, *gradients)
        context.follow.kernels.append(moved)
        return None, *gradients


def _kernels(name: str, args: tuple, kwargs: dict, outputs) -> list[Kernel]:
    if name == "convolution":
        x, weight, bias = args[:3]
        flops = 2 * outputs.numel() * weight[0].numel()
        kernels = [_kernel(name, flops, x, weight, outputs)]
        return kernels + ([] if bias is None else [_kernel("bias", 0, outputs, outputs, bias)])
    if name == "convolution_backward":
        gradient, x, weight = args[:3]
        flops = 2 * gradient.numel() * weight[0].numel()
        of_x, of_weight, of_bias = outputs
        kernels = [_kernel(name, flops, gradient, x, of_weight)]
        if of_x is not None:
            kernels.append(_kernel(name, flops, gradient, weight, of_x))
        return kernels + ([] if of_bias is None else [_kernel("bias", 0, gradient, of_bias)])
    inputs = tree_leaves((args[1:] if name in ONLY_WRITTEN else args, kwargs))
    twice = (args[index] for index in READ_TWICE.get(name, ()))
    count = flop_registry.get(getattr(torch.ops.aten, name))
    flops = count(*args, **kwargs, out_val=outputs) if count else 0
    return [_kernel(name, flops, *inputs, *tree_leaves(outputs), *twice)]


def _kernel(name: str, flops: int, *arrays) -> Kernel:
    """That reads or writes each of the tensors among `arrays`."""
    tensors = [each for each in arrays if isinstance(each, torch.Tensor)]
    wide = bool(flops) and tensors[0].element_size() > 2
    moved = sum(each.numel() * each.element_size() for each in tensors)
    return Kernel(name, flops, moved, wide=wide)
