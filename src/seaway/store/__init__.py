"""Versioned documents: get, list, create, compare-and-swap update, delete, watch."""
