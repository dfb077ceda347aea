"""Decoding images and labels, with errors that name the file."""

from __future__ import annotations

import cv2
import numpy as np

from openseg_jax.errors import UserError

# Label maps without PNG's filters are smaller, and decode in half the time. OpenCV before 4.12
# cannot leave them out.
_LABEL_PNG = [cv2.IMWRITE_PNG_COMPRESSION, 6]
if hasattr(cv2, "IMWRITE_PNG_FILTER"):
    _LABEL_PNG += [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE]


def decode_image(encoded: bytes, where: str) -> np.ndarray:
    """JPEG or PNG bytes -> `(h, w, 3)` uint8 RGB. Grey images repeat, alpha is dropped.

    An orientation noted in a JPEG (EXIF) is ignored, as labels lie on the stored pixels.
    """
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    image = _decode(encoded, flags, where)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def truncated(encoded: bytes) -> bool:
    """Whether a JPEG or PNG lacks its end; decoders often fill the missing part with grey."""
    if encoded.startswith(b"\xff\xd8"):
        return b"\xff\xd9" not in encoded[-65536:]
    if encoded.startswith(b"\x89PNG"):
        return b"IEND" not in encoded[-65536:]
    return False


def decode_label(encoded: bytes, where: str) -> np.ndarray:
    """Bytes of an image of one channel -> `(h, w)` with the stored dtype."""
    label = _decode(encoded, cv2.IMREAD_UNCHANGED, where)
    return label[..., 0] if label.ndim == 3 and label.shape[-1] == 1 else label


def encode_label(label: np.ndarray, suffix: str = ".png") -> bytes:
    """`(h, w)` uint8 -> bytes of an image of one channel."""
    options = _LABEL_PNG if suffix == ".png" else []
    return cv2.imencode(suffix, label, options)[1].tobytes()


def _decode(encoded: bytes, flags: int, where: str) -> np.ndarray:
    data = np.frombuffer(encoded, np.uint8)
    try:
        image = cv2.imdecode(data, flags) if len(data) else None
    except cv2.error:  # a header that promises more pixels than OpenCV allows
        image = None
    if image is None:
        raise UserError(
            f"{where}: cannot be read as an image ({len(data)} bytes). The file may be damaged "
            "or incomplete; fetch it again or remove it from the list."
        )
    return image
