"""Measurements against peers on one machine, as ratios and CPU seconds a row (`make bench`)."""
