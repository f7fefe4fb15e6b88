"""Source to build plan to OCI image."""
