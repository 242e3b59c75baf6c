"""An application to roll, and a stage to roll it on without a cluster."""
