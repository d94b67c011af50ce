"""Events: what consumers see, and its envelope."""
