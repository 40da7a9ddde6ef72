"""Whether all is well: status, what holds a stream up, alerts, metrics."""
