"""Pure rules and values; imports only the standard library."""
