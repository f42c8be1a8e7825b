"""Claims about local training, whose workers take several steps between two synchronizations."""
