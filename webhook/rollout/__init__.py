"""How workloads roll: shape, simulation, order, progress. Pure."""
