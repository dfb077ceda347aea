"""Inference, metrics, and the evaluation of a split."""
