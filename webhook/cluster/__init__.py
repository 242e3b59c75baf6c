"""All that talks to the Kubernetes API; nothing outside of here imports its client."""
