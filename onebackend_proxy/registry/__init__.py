"""Which instances serve which service."""

from .embedded import EmbeddedRegistry

__all__ = ["EmbeddedRegistry"]
