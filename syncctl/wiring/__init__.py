"""From settings to use cases: the connections of one process, and the functions that hand them to the pipeline."""
