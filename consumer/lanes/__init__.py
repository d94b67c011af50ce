"""Lanes: who owns one, its transactions, and the way of its outbox to Kafka."""
