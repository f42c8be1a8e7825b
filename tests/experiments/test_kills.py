import kills
import pytest


@pytest.mark.slow
@pytest.mark.parametrize("command", ["compare", "decentralized", "claims", "bench update"])
def test_what_was_killed_ends_bit_for_bit_as_what_was_not(command):
    kills.check(command, kills=1)
