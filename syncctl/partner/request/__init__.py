"""Building requests: the builder, templates, the JSON Schema, and requests for display."""
