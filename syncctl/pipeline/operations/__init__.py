"""The operations that an operator starts: replay, rewind, reconcile, sending one row."""
