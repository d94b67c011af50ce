"""A real Kafka and a real PostgreSQL in the data directory, for use without settings.

``EmbeddedStack(data_dir)`` starts both, or attaches to the process that already runs them
there.  Invariants: servers listen on loopback only; their state survives a restart; no
server outlives the process that started it, however that process ends.
"""

from consumer.embedded.stack import Addresses, EmbeddedStack, running

__all__ = ["Addresses", "EmbeddedStack", "running"]
