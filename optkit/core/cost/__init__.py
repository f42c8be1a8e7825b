"""What a transformation costs: state, memory, operations, bytes sent."""
