"""What is judged of a proof: pure, without a clock, a network or a cluster."""
