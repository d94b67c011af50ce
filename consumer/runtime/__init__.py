"""A process: signals, supervised roots, child processes, health, logs, waiting."""
