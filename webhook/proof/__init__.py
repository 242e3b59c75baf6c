"""What a rollout under load lost, and why: pure, but for `load`, which sends the requests."""
