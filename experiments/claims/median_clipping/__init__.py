"""Claims about median clipping."""
