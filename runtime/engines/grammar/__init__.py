"""Answers that match a grammar: llguidance, within bounds."""
