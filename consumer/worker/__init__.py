"""From verified input to decisions: facts, reconcile, repo state, and the batch that commits."""
