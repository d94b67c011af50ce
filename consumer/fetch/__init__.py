"""The fetcher: guarded requests to the PLC directory, PDSes, did:web hosts and the relay."""
