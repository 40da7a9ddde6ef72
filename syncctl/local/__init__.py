"""Embedded MongoDB and Redis, and the source and partner of the demo."""
