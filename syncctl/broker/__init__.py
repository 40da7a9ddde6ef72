"""Redis beside Celery: queue depth and shared limits."""
