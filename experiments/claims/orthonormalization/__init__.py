"""Claims about orthonormalized updates."""
