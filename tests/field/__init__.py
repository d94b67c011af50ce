"""The whole consumer beside a network that behaves as real relays, directories and hosts do."""
