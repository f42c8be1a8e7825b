"""Linear algebra of leaves: views as matrices, orthonormal bases, and products on explicit mesh axes."""
