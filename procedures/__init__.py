"""The published vocabulary: syntax, lexicon contracts, control messages, operations."""
