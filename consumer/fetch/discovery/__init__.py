"""Discovery: finds repositories that already hold wanted records, and those that are behind.

Sources of listings are asked in the order of the settings: ``consumer.state.discovery`` decides
what is asked next and what an answer means.  ``planner`` opens and ends searches, ``reader`` reads
their pages, ``findings`` keeps what a page names (``store/found.py``), and ``feeder`` feeds that
into automatic syncs, until it is synced or known to be gone.  ``role`` puts them together.

Any number of processes may run it: a search is leased, one of a source at a time.  With
``history = full`` the sweep runs beside it (``consumer.fetch.sweep``): a newer revision at a host
means that the last commit was lost on its way here, which nothing else would show.
"""
