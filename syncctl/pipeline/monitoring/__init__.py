"""Monitoring: status, the obstacles that hold up a stream, alerts, metrics, health."""
