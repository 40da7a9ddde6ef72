"""The partner: turn one record into one HTTP call and one outcome."""
