"""Verification of frames, commits, trees and proofs.  Pure: no I/O, no asyncio."""
