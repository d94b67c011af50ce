"""Guarded requests to PLC, PDS and did:web hosts, and the loop that claims them."""
