"""PyTorch's side: channels last, default threads, autocast on a GPU, folded norms in evaluation."""

from __future__ import annotations

import contextlib

import torch
import torch.nn.functional as F
import torch_twins

from benchmarking.case import Case, Program, config_of, host_batch, network_input
from openseg_jax.data.dataset import IGNORE


def twin_of(case: Case, weights: dict | None = None) -> torch.nn.Module:
    """The twin on the CPU, with `weights` (a state dict of NumPy arrays) or random ones."""
    twin = torch_twins.build(config_of(case).model, case.fused_attention)
    if weights is not None:
        twin.load_state_dict({key: torch.from_numpy(array) for key, array in weights.items()})
    return twin


@torch.no_grad()
def calibrated_weights(twin: torch.nn.Module, case: Case) -> dict:
    """The twin's state dict with the norms' statistics of an image, as after training."""
    for module in twin.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # an average over all batches, of which there is one
    device = _device()
    twin.train().to(device)(images_of(case)[:1].to(device))
    return {key: value.cpu().numpy() for key, value in twin.state_dict().items()}


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def images_of(case: Case) -> torch.Tensor:
    """`(n, 3, h, w)` in channels-last order, on the CPU."""
    return torch.from_numpy(network_input(case)).permute(0, 3, 1, 2)


def torch_program(case: Case, twin: torch.nn.Module, compiled: bool = False) -> Program:
    """Moves the twin to the device; with `compiled` it goes through `torch.compile`."""
    device = _device()
    torch.backends.cudnn.benchmark = True
    if case.mode == "eval":
        torch_twins.fold_batch_norm(twin, torch.zeros(1, 3, 65, 65))
        twin.requires_grad_(False)
    twin = twin.to(device, memory_format=torch.channels_last)
    images = images_of(case).to(device)
    assert images.is_contiguous(memory_format=torch.channels_last)
    network = torch.compile(twin) if compiled else twin
    last, start = step_of(case, network, images)

    def memory():
        if device.type == "cpu":
            return None
        return torch.cuda.max_memory_allocated()

    def output():
        value = last["output"].detach().float()
        return (value.permute(0, 2, 3, 1) if value.ndim == 4 else value).cpu().numpy()

    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    return Program(start, wait, output, memory, facts={})


def step_of(case: Case, network: torch.nn.Module, images: torch.Tensor):
    """Where a step puts its output, as `{"output": …}`, and what runs one."""
    make = _training if case.mode == "train" else _evaluation
    return make(case, network, images, images.device)


def _precision(case: Case, device: torch.device):
    if case.dtype == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, getattr(torch, case.dtype))


def _evaluation(case: Case, network, images: torch.Tensor, device: torch.device):
    last = {}

    def start():
        with torch.inference_mode(), _precision(case, device):
            (last["output"],) = network(images, auxiliary=False)

    return last, start


def _training(case: Case, network, images: torch.Tensor, device: torch.device):
    config = config_of(case)
    labels = torch.from_numpy(host_batch(case)["label"]).long().to(device)
    optimizer = torch.optim.SGD(
        network.parameters(),
        config.optimizer.learning_rate,
        config.optimizer.momentum,
        weight_decay=config.optimizer.weight_decay,
    )
    network.train()
    last = {}

    def start():
        optimizer.zero_grad()
        with _precision(case, device):
            *auxiliary, main = network(images)
            loss = F.cross_entropy(main, labels, ignore_index=IGNORE)
            for each in auxiliary:
                part = F.cross_entropy(each, labels, ignore_index=IGNORE)
                loss = loss + config.loss.aux_weight * part
        loss.backward()
        optimizer.step()
        last["output"] = loss

    return last, start
