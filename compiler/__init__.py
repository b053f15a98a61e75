"""The config compiler: layered YAML in, complete Ray Serve documents out. Pure: text in, bytes out."""
