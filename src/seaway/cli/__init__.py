"""The command line: every command goes through the HTTP API."""
