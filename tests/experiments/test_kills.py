import kills
import pytest


# `test_command_line.py` kills `compare`.
@pytest.mark.slow
@pytest.mark.parametrize("command", ["workers", "claims", "bench update"])
def test_what_was_killed_ends_bit_for_bit_as_what_was_not(command):
    kills.check(command, kills=1)
