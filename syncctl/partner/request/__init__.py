"""Building requests: the builder, templates, the JSON Schema, and the request as it is shown."""
