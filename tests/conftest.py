"""Fixtures of all tests: one file per concern under tests/support."""

pytest_plugins = [
    "tests.support.consumer",
    "tests.support.services",
    "tests.support.deployment",
    "tests.support.database",
    "tests.support.network",
    "tests.support.order",
    "tests.support.worker",
    "tests.support.village",
    "tests.vectors",
]
