"""Talking to OCI registries: names of images, credentials, and a client that believes nothing it has not hashed."""
