"""Compiles the pure core: see ``consumer.compiled``."""
