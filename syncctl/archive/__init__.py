"""The archive: records that cleanup removes, as compressed lines of JSON in one file for each stream and day."""
