"""Checking: old names become new ones, and the merged tree becomes a valid spec."""
