"""The HTTP API: records intent, shows state, streams progress."""
