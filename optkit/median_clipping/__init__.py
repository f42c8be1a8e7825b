"""Medians in place of means: of gradients over time, over samples, coordinate by coordinate."""

__all__ = []

ENTRIES = ()
