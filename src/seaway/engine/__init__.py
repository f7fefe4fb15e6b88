"""Engines make instances be: one contract, several implementations."""
