"""The demo: a real small model on a local Ray Serve, deployed from generated/."""
