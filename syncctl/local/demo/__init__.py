"""`syncctl demo`: every step of a row on this machine, with an unreliable partner and an account at the end."""
