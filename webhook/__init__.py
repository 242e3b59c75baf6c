"""Seamless Rollouts: an admission webhook that makes every Kubernetes rollout seamless."""

VERSION = "0.1.0"
