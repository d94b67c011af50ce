"""A process: signals, supervised roots, services, child processes, health, logs."""
