"""Colours that data sets share."""

from __future__ import annotations


def voc_colours(count: int) -> tuple[tuple[int, int, int], ...]:
    """The colour map of Pascal VOC: the bits of an id, dealt to red, green and blue in turn."""
    return tuple(_voc_colour(index) for index in range(count))


def _voc_colour(index: int) -> tuple[int, int, int]:
    colour = [0, 0, 0]
    for bit in range(8):  # the lowest bits of the id become the highest of the colour
        for channel in range(3):
            colour[channel] |= (index >> (3 * bit + channel) & 1) << (7 - bit)
    return tuple(colour)
