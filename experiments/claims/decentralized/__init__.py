"""Claims about decentralized training."""
