"""The controller: commands on ``chive.control`` become operations."""
