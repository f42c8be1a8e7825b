"""The types of the arguments and results of optkit's functions."""

from optkit.communication.feedback import Feedback
from optkit.compressors import Compressor
from optkit.core.proximal import MedianStep, Proximal
from optkit.core.types import AxisName, DTypeLike, Key, Mask, Schedule
from optkit.decentralized._mixing import Mixing
from optkit.decentralized.topology import Topology
from optkit.memory_efficient._projector import Projector
from optkit.robust_aggregation.attacks import Attack
from optkit.sign_momentum.kappa import Kappa

__all__ = [
    "Attack",
    "AxisName",
    "Compressor",
    "DTypeLike",
    "Feedback",
    "Kappa",
    "Key",
    "Mask",
    "MedianStep",
    "Mixing",
    "Projector",
    "Proximal",
    "Schedule",
    "Topology",
]
