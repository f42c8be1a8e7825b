"""Linear algebra of leaves: as matrices, orthonormal bases, products on explicit mesh axes."""
