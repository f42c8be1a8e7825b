"""Types of what functions of optkit take and give."""

from optkit.compressors import Compressor
from optkit.core.proximal import MedianStep, Proximal
from optkit.decentralized._mixing import Mixing
from optkit.decentralized.topology import Topology
from optkit.memory_efficient._projector import Projector

__all__ = ["Compressor", "MedianStep", "Mixing", "Projector", "Proximal", "Topology"]
