"""The consumer: tailer, worker, publisher, fetcher, controller, gateway and their composition."""

from consumer import compiled as _compiled  # noqa: F401 - decides in which form the core is found
