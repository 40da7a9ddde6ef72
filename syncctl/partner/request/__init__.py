"""The shape of a call: fields, templates, the check of what is sent, and how a request is shown."""
