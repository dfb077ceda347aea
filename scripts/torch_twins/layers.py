"""What the twins share: the original's "BNReLU", resizing, attention, folding."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights


def bn_relu(channels: int) -> nn.Sequential:
    """Batch norm and ReLU, with the keys of the original's: `X.0.weight`."""
    return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(inplace=True))


def conv_bn_relu(in_channels: int, channels: int, kernel: int = 1, bias: bool = True) -> list:
    """A convolution of stride 1 that keeps the size, and its "BNReLU"."""
    conv = nn.Conv2d(in_channels, channels, kernel, padding=kernel // 2, bias=bias)
    return [conv, bn_relu(channels)]


def classifier(in_channels, channels, classes, *, bias=True, last_bias=True, dropout=None):
    """3x3 convolution, norm, optionally dropout (an element of the sequence), 1x1 convolution."""
    layers = conv_bn_relu(in_channels, channels, 3, bias)
    if dropout is not None:
        layers.append(nn.Dropout2d(dropout))
    return nn.Sequential(*layers, nn.Conv2d(channels, classes, 1, bias=last_bias))


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """`(n, c, h, w)` -> `(n, c, *size)`, bilinear with aligned corners."""
    return F.interpolate(x, size, mode="bilinear", align_corners=True)


def attend(query: Tensor, key: Tensor, value: Tensor, fused: bool) -> Tensor:
    """softmax(Q K^T / sqrt(d)) V; query `(b, p, d)`, key `(b, m, d)`, value `(b, m, v)`.

    Args:
        fused: by PyTorch's `scaled_dot_product_attention`; else by two products, as the original.
    """
    if fused:
        heads = (each[:, None] for each in (query, key, value))
        return F.scaled_dot_product_attention(*heads)[:, 0]
    return (query @ key.mT * query.shape[-1] ** -0.5).softmax(-1) @ value


@torch.no_grad()
def fold_batch_norm(model: nn.Module, example: Tensor) -> nn.Module:
    """Folds into each convolution the batch norm that reads it, in place; for evaluation only.

    Args:
        example: any input `(n, 3, h, w)`; one forward pass with it shows which norm reads what.
    """
    made_by: dict[int, tuple[Tensor, nn.Conv2d]] = {}  # the tensors stay alive, ids stay unique
    pairs: dict[nn.BatchNorm2d, nn.Conv2d] = {}

    def remember(conv, inputs, output):
        made_by[id(output)] = output, conv

    def match(norm, inputs, output):
        if id(inputs[0]) in made_by:
            pairs[norm] = made_by[id(inputs[0])][1]

    hooks = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(remember))
        elif isinstance(module, nn.BatchNorm2d):
            hooks.append(module.register_forward_hook(match))
    model.eval()(example)
    for hook in hooks:
        hook.remove()
    for name, norm in list(model.named_modules()):
        if norm in pairs:
            conv = pairs[norm]
            conv.weight, conv.bias = fuse_conv_bn_weights(
                conv.weight,
                conv.bias,
                norm.running_mean,
                norm.running_var,
                norm.eps,
                norm.weight,
                norm.bias,
            )
            parent, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(parent), attribute, nn.Identity())
    return model
