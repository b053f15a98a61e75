"""Getting a model's files: where they are looked for, and that they are what they claim to be."""
