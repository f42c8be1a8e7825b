"""Many workers: mapping a step over them, collectives, rows of gradients, and shardings."""
