"""Networks: shared layers, one architecture or paper a file, and `segmenter.build`."""
