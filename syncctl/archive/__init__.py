"""The archive: records that clean-up removes, as compressed lines of JSON in one file for each stream and day."""
