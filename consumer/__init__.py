"""The consumer: tailer, worker, publisher, fetcher, controller, gateway and their composition."""
