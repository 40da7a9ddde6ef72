"""Close looks at a record, a row or a request; nothing is changed."""
