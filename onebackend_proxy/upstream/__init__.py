"""The side the services are on: connections opened, kept and watched."""

from .client import Http1Client
from .health import HealthChecks

__all__ = ["HealthChecks", "Http1Client"]
