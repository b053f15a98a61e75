"""Writing config files: mending, formatting, making new ones. Comments and layout stay."""
