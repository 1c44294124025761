"""The proxies that are compared, in the order of the report."""

from bench.peers.agw import Agw
from bench.peers.base import Job, Peer
from bench.peers.direct import Direct
from bench.peers.envoy import Envoy
from bench.peers.haproxy import HAProxy
from bench.peers.nginx import Nginx

REGISTRY: tuple[type[Peer], ...] = (Direct, Nginx, HAProxy, Envoy, Agw)
CONTROL = Nginx.name  # ratios in the report are against this one

__all__ = ["CONTROL", "REGISTRY", "Job", "Peer"]
