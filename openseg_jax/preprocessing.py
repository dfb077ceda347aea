"""uint8 images -> network input, on the device: brightness, channel order, normalisation."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def compute_dtype(name: str) -> jnp.dtype:
    """The dtype of activations: as named, or bfloat16 on accelerators and float32 on CPU."""
    if name == "auto":
        name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return jnp.dtype(name)


def normalize(
    image: jax.Array,
    data,
    dtype: jnp.dtype,
    brightness: jax.Array | None = None,
    box: jax.Array | None = None,
) -> jax.Array:
    """`(n, h, w, 3)` uint8 RGB -> normalised `(n, h, w, 3)` of `dtype`.

    Args:
        data: `config.data`, for `channel_order`, `scale`, `mean` and `std` (given in that
            channel order).
        brightness: (n,) grey levels to add; the sum is clipped to 0..255.
        box: (n, 4) top, left, height, width of the real image; what lies outside is padding
            and becomes zero after normalisation, the mean colour, as in the original.
    """
    x = image.astype(jnp.float32)
    if brightness is not None:
        x = jnp.clip(x + brightness[:, None, None, None].astype(x.dtype), 0, 255)
    if data.channel_order == "bgr":
        x = x[..., ::-1]
    x = (x / data.scale - jnp.asarray(data.mean, x.dtype)) / jnp.asarray(data.std, x.dtype)
    if box is not None:
        top, left, height, width = (box[:, i, None, None] for i in range(4))
        row = jnp.arange(image.shape[1])[None, :, None]
        column = jnp.arange(image.shape[2])[None, None, :]
        inside = (row >= top) & (row < top + height) & (column >= left) & (column < left + width)
        x = jnp.where(inside[..., None], x, 0)
    return x.astype(dtype)
