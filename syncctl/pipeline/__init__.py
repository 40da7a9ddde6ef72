"""The use cases; they know neither Celery nor Typer."""
