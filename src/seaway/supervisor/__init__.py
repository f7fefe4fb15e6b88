"""Keeps the parts of one platform on this machine running, and each part the supervisor."""
