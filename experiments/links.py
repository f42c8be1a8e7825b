"""The model of a network: what a worker sends among more workers, and how long that takes, by formula."""

from collections.abc import Mapping
from typing import NamedTuple


class Link(NamedTuple):
    """What joins workers.

    Attributes:
        bandwidth: bits a second that a worker sends.
        latency: seconds that an exchange takes whatever its size.
    """

    bandwidth: float
    latency: float = 0.0

    def seconds(self, bytes_: float, exchanges: float = 1) -> float:
        """Returns how long a worker takes to send bytes in some exchanges, one after the other.

        Args:
            bytes_: what it sends in all of them.
            exchanges: their number.
        """
        return exchanges * self.latency + 8 * bytes_ / self.bandwidth


def bytes_sent(sent: Mapping[str, float], counted: int, workers: int) -> float:
    """Returns what a worker sends when there are more or fewer of them.

    In a reduction of b bytes it sends `2 (n - 1) / n * b`, and to gather b bytes of each `(n - 1) * b`. After an
    all-to-all, gathered slices are 1 / n of what was exchanged. Neighbours stay as many as they are.

    Args:
        sent: bytes that a worker sends among those that were counted, by kind of collective.
        counted: the number of workers there, at least 2.
        workers: the number of workers.
    """
    share = (workers - 1) / workers / ((counted - 1) / counted)
    gathered = share if "all-to-all" in sent else (workers - 1) / (counted - 1)
    factors = {"all-gather": gathered, "collective-permute": 1.0}
    return sum(bytes_ * factors.get(kind, share) for kind, bytes_ in sent.items())
