"""Updates of random length."""

__all__ = []

ENTRIES = ()
