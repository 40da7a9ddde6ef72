"""MongoDB and Redis on this machine, and the demo with its source and its mock partner."""
