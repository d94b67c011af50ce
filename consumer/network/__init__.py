"""The way of outgoing connections: through the proxy that the settings name, or directly."""
