"""A small network of repositories, and everything between it and the rules under test.

``network``   the truth: accounts, their repositories, every version of them
``relay``     what the network makes of it: frames lost, repeated, late, unverifiable
``fetching``  operations, downloads and proofs, as the fetcher will run them
``machine``   the database and the worker: it applies inputs through the real rules
``checks``    what must be true after every batch, and at rest
``scripts``   an interleaving as a value: a list of steps, and how each is played
``mutants``   the rules, each broken once
"""
