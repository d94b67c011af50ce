"""Kafka: topics, the guarded transactional producer, readers and membership."""
