"""A run as Prometheus sees it: declared (`families`), counted (`observer`), served (`endpoint`)."""

from earlyfire_stream.metrics.families import FAMILIES, PREFIX, Family, Kind, Role

__all__ = ["FAMILIES", "PREFIX", "Family", "Kind", "Role"]
