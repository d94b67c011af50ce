"""Hostile input, made by changing good input at random: no crash, no hang, whatever comes."""
