"""The machine: tailer, worker, publisher, fetcher and their composition."""
