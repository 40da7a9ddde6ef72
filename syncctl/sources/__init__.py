"""SQL sources: the stream reader, cursor modes, ODBC drivers, catalogs, and rows as exact values."""
