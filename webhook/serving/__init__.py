"""The process that serves the webhook: HTTP, bounds, metrics, logs and traces."""
