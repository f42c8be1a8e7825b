"""What a transformation costs: state, memory, operations and bytes sent."""
