"""Fixtures of all tests: one file per concern under tests/support."""

pytest_plugins = [  # what others import comes first: a plugin is rewritten only before its import
    "tests.support.consumer",
    "tests.support.services",
    "tests.support.deployment",
    "tests.support.accounts",
    "tests.support.database",
    "tests.support.network",
    "tests.support.order",
    "tests.support.worker",
    "tests.vectors",
]
