"""The maintenance work that Beat starts at intervals: expired leases, held records, cleanup, archive."""
