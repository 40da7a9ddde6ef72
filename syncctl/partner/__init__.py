"""The partner: how one record becomes one HTTP call and one outcome."""
