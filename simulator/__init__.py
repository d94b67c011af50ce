"""A signed network in memory: accounts, repositories, commits with full proofs, frames."""
