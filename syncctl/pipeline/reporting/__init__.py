"""Events by hour: rolled up as they happen, and added up for a report."""
