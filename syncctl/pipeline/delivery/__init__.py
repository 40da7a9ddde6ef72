"""Due records become calls, and the outcomes of the calls become states."""
