"""The gateway role: XRPC calls become commands on ``chive.control``."""
