"""Many workers: mapping a step over them, their collectives, rows of gradients, shardings."""
