"""Lanes: who owns one, and how what it decides reaches Kafka."""
