"""Makes ``twistd onebackend-proxy`` known; names its module by string so that listing plugins stays cheap."""

from __future__ import annotations

from twisted.application.service import ServiceMaker

onebackend_proxy = ServiceMaker(
    "onebackend-proxy",
    "onebackend_proxy.service",
    "1Backend's Proxy Svc: one front door for services.",
    "onebackend-proxy",
)
