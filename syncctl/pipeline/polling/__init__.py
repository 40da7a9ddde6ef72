"""One poll of a stream: pages of rows become records, and their outcomes go back into the rows."""
