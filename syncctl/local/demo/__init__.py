"""`syncctl demo`: the whole way of a row on this machine, with a partner that fails, and an account at the end."""
