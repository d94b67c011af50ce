"""Fixtures of all tests: one file per concern under tests/support."""

from hypothesis import HealthCheck, settings

# The timeout of pytest bounds each test.  How long one example takes is no verdict: other
# processes may need the machine.
settings.register_profile("chive", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("chive")

pytest_plugins = [  # what others import comes first: a plugin is rewritten only before its import
    "tests.support.consumer",
    "tests.support.services",
    "tests.support.deployment",
    "tests.support.accounts",
    "tests.support.database",
    "tests.support.backup",
    "tests.support.cluster",
    "tests.support.network",
    "tests.support.nginx",
    "tests.support.order",
    "tests.support.pgbouncer",
    "tests.support.redis",
    "tests.support.secured_kafka",
    "tests.support.tls_postgres",
    "tests.support.worker",
    "tests.vectors",
]
