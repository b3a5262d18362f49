"""The Kubernetes operator: custom resources to Jobs, and what became of them back into their status."""
