"""Events by hour: rolled up as they come, and added up to a report."""
