"""Prometheus metrics of the platform, its routers and its apps."""
