"""What a verified commit costs, from the relay's socket to ``chive.events``.

``python -m bench`` makes a signed network, replays it from a websocket server of its own, and
measures every stage on a real embedded Kafka and PostgreSQL.  Costs are CPU microseconds per
commit (or frame), since wall-clock rates depend on what else the machine does; beside them
stands their ratio to the *floor* of the same run: SHA-256 of the blocks and one signature check,
which every verification needs.
"""
