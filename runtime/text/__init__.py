"""From messages to prompts and from tokens to text: once, for all engines."""
