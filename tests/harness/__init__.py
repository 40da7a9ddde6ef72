"""Shared by all tests: real servers, misbehaving partners, a source, settings, and the installed command."""
