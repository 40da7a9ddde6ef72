"""The ledger in MongoDB: records, keys, streams, runs, reports, audit, heartbeats."""
