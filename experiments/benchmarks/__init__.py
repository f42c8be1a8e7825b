"""`python -m experiments bench`: what things cost, as ratios measured in one process."""
