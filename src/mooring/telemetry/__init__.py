"""Logs and metrics. Nothing here leaves the host."""
