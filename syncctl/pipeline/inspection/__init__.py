"""A record, a row or a request, looked at closely; nothing is changed."""
