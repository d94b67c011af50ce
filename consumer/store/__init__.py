"""Postgres: schema, named queries, and the row types."""
