"""What the tests stand on: real servers, a source, settings, and the installed command."""
