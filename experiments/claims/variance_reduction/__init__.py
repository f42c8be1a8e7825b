"""Claims about variance reduction."""
