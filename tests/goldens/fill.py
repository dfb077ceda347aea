"""Deterministic weights, inputs and labels for golden-number parity tests.

numpy only, bit-exact on every platform: everything is derived from
sha256 + splitmix64 (integer arithmetic) followed by IEEE float64
multiply / divide / sqrt and one rounding to float32.  No libm transcendental
function and no numpy random generator is used.

    value(key, shape)  depends only on (salt, key, shape).
"""

import hashlib
import re

import numpy as np

PUBLIC_SALT = "public-v1"
CONV_GAIN = 1.7  # keys starting with "backbone."
HEAD_GAIN = 0.7  # all other conv / linear weights

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_M1 = np.uint64(0xBF58476D1CE4E5B9)
_M2 = np.uint64(0x94D049BB133111EB)


def seed64(text):
    """First 8 bytes (little endian) of sha256(text) as a python int."""
    return int.from_bytes(hashlib.sha256(text.encode("utf-8")).digest()[:8], "little")


def bits(text, n):
    """n uint64 words of splitmix64 started at seed64(text)."""
    with np.errstate(over="ignore"):
        z = np.arange(1, n + 1, dtype=np.uint64) * _GOLDEN + np.uint64(seed64(text))
        z = (z ^ (z >> np.uint64(30))) * _M1
        z = (z ^ (z >> np.uint64(27))) * _M2
        return z ^ (z >> np.uint64(31))


def uniform(text, n):
    """float64 in [0, 1): top 53 bits * 2**-53."""
    return (bits(text, n) >> np.uint64(11)).astype(np.float64) * (2.0**-53)


def normal(text, n):
    """Near-normal float64, mean 0, std 1: standardised sum of the four 16-bit
    fields of each word (exact integer arithmetic, bounded to +-3.47)."""
    z = bits(text, n)
    m = np.uint64(0xFFFF)
    s = (z & m) + ((z >> np.uint64(16)) & m) + ((z >> np.uint64(32)) & m) + (z >> np.uint64(48))
    return (s.astype(np.float64) - 131070.0) / np.sqrt((65536.0**2 - 1.0) / 3.0)


# Damping of the last normalisation / convolution of residual branches and of
# multi-resolution fusion, so that activations of 100-layer nets stay O(1).
_BN_DAMP = (
    (re.compile(r"\.\d+\.bn3\.weight$"), 0.2),  # bottleneck blocks
    (re.compile(r"branches\.\d+\.\d+\.bn2\.weight$"), 0.2),  # HRNet basic blocks
    (re.compile(r"fuse_layers\..*\.weight$"), 0.3),  # HRNet fusion BNs
)
_CONV_DAMP = ((re.compile(r"\.convs\.conv[23]\.weight$"), 0.3),)  # wide-resnet blocks


def fill(key, shape, salt=PUBLIC_SALT):
    """Value of one state-dict entry.  Returns float32 (int64 for
    num_batches_tracked).  `key` is the torch state-dict key WITHOUT any
    'module.' prefix; `shape` is the torch shape (conv = OIHW)."""
    shape = tuple(int(s) for s in shape)
    if key.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    n = int(np.prod(shape)) if shape else 1
    text = "w|{}|{}|{}".format(salt, key, ",".join(map(str, shape)))
    if len(shape) >= 2:  # conv / linear weight
        fan_in = int(np.prod(shape[1:]))
        gain = CONV_GAIN if key.startswith("backbone.") else HEAD_GAIN
        v = normal(text, n) * np.sqrt(gain / fan_in)
        for pat, s in _CONV_DAMP:
            if pat.search(key):
                v = v * s
    elif key.endswith("running_var"):
        v = 0.5 + uniform(text, n)
    elif key.endswith("running_mean") or key.endswith("bias"):
        v = 0.1 * normal(text, n)
    elif key.endswith("weight"):  # normalisation scale
        v = 0.5 + uniform(text, n)
        for pat, s in _BN_DAMP:
            if pat.search(key):
                v = v * s
    else:
        raise ValueError(f"no rule for {key} {shape}")
    return v.reshape(shape).astype(np.float32)


def fill_state_dict(spec, salt=PUBLIC_SALT):
    """spec: iterable of (key, shape) -> dict key -> array."""
    return {k: fill(k, s, salt) for k, s in spec}


def make_input(seed, shape):
    """float32 ~ N(0,1) of the given (N,C,H,W) shape."""
    n = int(np.prod(shape))
    return (
        normal("x|%d|%s" % (seed, ",".join(map(str, shape))), n).reshape(shape).astype(np.float32)
    )


def make_labels(seed, shape, num_classes, ignore_frac=0.05, cell=8):
    """int64 (N,H,W) label map in [0,num_classes) with ignore = -1, constant on
    cell x cell pixel cells."""
    n, h, w = shape
    gh, gw = -(-h // cell), -(-w // cell)
    z = bits("y|%d|%d,%d,%d|%d|%d" % (seed, n, h, w, num_classes, cell), n * gh * gw)
    lab = ((z >> np.uint64(32)) % np.uint64(num_classes)).astype(np.int64)
    lab[(z & np.uint64(0xFFFF)) < np.uint64(int(ignore_frac * 65536))] = -1
    lab = lab.reshape(n, gh, gw).repeat(cell, 1).repeat(cell, 2)
    return np.ascontiguousarray(lab[:, :h, :w])


def subgrid(size, k):
    """min(size,k) indices spread over range(size), first and last included."""
    k = min(int(size), int(k))
    if k == 1:
        return np.zeros(1, np.int64)
    return (np.arange(k, dtype=np.int64) * (size - 1)) // (k - 1)


def subsample(x, limits):
    """Take subgrid(x.shape[d], limits[d]) along every axis d."""
    for d, k in enumerate(limits):
        x = np.take(x, subgrid(x.shape[d], k), axis=d)
    return x


def abn_sign(x):
    """Used only for the 'abn' cases: flips the sign of every element whose
    index i satisfies i % 7 == 3 (exercises |weight| in activated BN)."""
    x = x.copy()
    x[3::7] *= -1
    return x


def make_offset_targets(seed, shape, cell=4):
    """(distance, angle) maps for the boundary-refinement loss, (N,H,W) each.
    distance: int64 in 0..8 (values <= 5 count as boundary);
    angle: float64 degrees, even integers in -180..180."""
    n, h, w = shape
    gh, gw = -(-h // cell), -(-w // cell)
    z = bits("o|%d|%d,%d,%d|%d" % (seed, n, h, w, cell), n * gh * gw)
    d = (z % np.uint64(9)).astype(np.int64).reshape(n, gh, gw)
    a = (((z >> np.uint64(32)) % np.uint64(181)).astype(np.float64) * 2.0 - 180.0).reshape(
        n, gh, gw
    )

    def up(q):
        return np.ascontiguousarray(q.repeat(cell, 1).repeat(cell, 2)[:, :h, :w])

    return up(d), up(a)


def direction(key, shape):
    """Fixed float64 random direction used for the gradient projections."""
    n = int(np.prod(shape)) if len(shape) else 1
    return normal(f"g|{key}", n).reshape(shape)


def make_image(seed, h, w, c=3):
    """uint8 (H,W,C) image: smooth ramps plus hash noise, full 0..255 range."""
    z = (
        (bits("i|%d|%d,%d,%d" % (seed, h, w, c), h * w * c) >> np.uint64(57))
        .astype(np.int64)
        .reshape(h, w, c)
    )
    y, x, k = np.meshgrid(np.arange(h), np.arange(w), np.arange(c), indexing="ij")
    v = (3 * y + 5 * x + 40 * k) % 384
    v = np.where(v > 192, 384 - v, v)  # 0..192 triangle wave
    return np.clip(v + z - 32, 0, 255).astype(np.uint8)
