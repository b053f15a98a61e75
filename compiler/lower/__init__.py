"""Lowering: from what a model is to what Ray Serve is told."""
