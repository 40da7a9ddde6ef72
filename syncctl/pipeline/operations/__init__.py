"""What an operator sets off: replay, rewind, reconcile, the sending of one row."""
