"""Seaway: an application platform. Source in; a routed, healed, A/B-updated app out."""

__version__ = "0.1.0"
