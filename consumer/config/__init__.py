"""Settings: what they are, their types, and where their values come from."""
