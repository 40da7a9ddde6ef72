"""The Redis that Celery uses: queue depth, rate limits, the token cache."""
