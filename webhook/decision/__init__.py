"""What is decided: a review in, a patch out. Pure: no clock, no network, no environment."""
