"""The main job, shown on a real network on loopback: ``python -m demo``.

A reference PDS and PLC directory, traffic of invented accounts, the consumer as an operator
would run it, and at the end the proof: the fold of ``chive.events``, the rows in PostgreSQL
and what the PDS lists are the same.
"""
