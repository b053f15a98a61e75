"""Lints: what compiles, and is probably not what its author meant. Each can be waived with a reason."""
