"""From compiled bytes to files."""
