"""The side the clients are on: twisted.web resources, and the site that streams to them."""

from .resources import ReverseProxyResource, ServiceResource
from .site import ProxySite

__all__ = ["ProxySite", "ReverseProxyResource", "ServiceResource"]
