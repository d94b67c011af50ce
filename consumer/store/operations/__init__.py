"""The table ``operations``: who writes it, who claims its rows, what is read of it.

``rows`` turns rows into ``procedures.operations.Operation`` and back; ``write`` saves what the
pure transitions decided; ``queue`` makes automatic syncs, ``claims`` leases operations to
fetchers, ``sweeps`` repairs what was lost; ``read`` and ``history`` only read.
"""
