"""A way back: tables that were restored from a backup, or lost, made again from the topics."""
