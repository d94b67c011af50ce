"""Fixtures of all tests: one file per concern under tests/support."""

pytest_plugins = [
    "tests.support.accounts",
    "tests.support.consumer",
    "tests.support.database",
    "tests.support.deployment",
    "tests.support.network",
    "tests.support.order",
    "tests.support.services",
    "tests.support.worker",
    "tests.vectors",
]
