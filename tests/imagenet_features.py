"""Features of MobileNetV2 with published ImageNet weights, as PyTorch computed them."""

from pathlib import Path

import numpy as np

WEIGHTS = "weights/mobilenet_v2_imagenet_features.pt"
CASES = [(32, "os32_225"), (8, "os8_129x193")]  # output stride, name of the golden file


def golden_features(real_data: Path, name: str) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """The normalised image `(1, h, w, 3)` and the features `(h, w, c)` by their block's index."""
    golden = dict(np.load(real_data / f"weights/golden/mnv2_features_{name}.npz"))
    image = golden.pop("input_u8_hwc").astype(np.float32) / 255
    image = (image - (0.485, 0.456, 0.406)) / np.float32((0.229, 0.224, 0.225))
    features = {int(key.removeprefix("features_")): value for key, value in golden.items()}
    return image[None].astype(np.float32), features


def assert_features_equal(features: dict[int, np.ndarray], golden: dict[int, np.ndarray]) -> None:
    """Compares the blocks `(h, w, c)` that both have, of which there must be four at least."""
    common = features.keys() & golden.keys()
    assert len(common) >= 4
    for index in common:
        difference = np.abs(np.asarray(features[index]) - golden[index]).max()
        assert difference < 5e-5 * golden[index].std(), f"block {index}"
