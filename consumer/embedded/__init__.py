"""A real Kafka and a real PostgreSQL in the data directory, for use without settings."""
