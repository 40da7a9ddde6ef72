"""Deliver every row of a SQL table to a partner's HTTP API, and account for each one."""

__version__ = "0.1.0"
