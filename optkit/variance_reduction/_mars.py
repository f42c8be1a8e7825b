"""Entries of the family."""

__all__ = []

ENTRIES = ()
