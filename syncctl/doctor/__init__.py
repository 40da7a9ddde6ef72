"""The checks of `syncctl doctor`: one file for each concern, all run at once, each failure with its fix.

Nothing here changes anything: no index is created, no row is taken, no record is sent.
"""
