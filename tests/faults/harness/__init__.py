"""Real processes, real faults, and the account that must be exact after each of them."""
