"""The operator, as the audit log names them."""

import getpass
import socket


def name_operator() -> str:
    """Return `user@host` for the audit log."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "unknown"
    return f"{user}@{socket.gethostname()}"
