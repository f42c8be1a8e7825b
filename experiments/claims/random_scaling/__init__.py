"""Claims about random scaling."""
