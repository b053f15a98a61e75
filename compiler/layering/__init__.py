"""Layering: which layers a file stands on, in which order, and what they say together."""
