"""What Beat has done at intervals: expired leases, held records, cleanup, archive."""
