"""Ratios against a peer or the floor, measured in the same run."""
