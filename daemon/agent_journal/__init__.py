"""The durable journal of a host's AI agents."""

__version__ = "0.1.0"
