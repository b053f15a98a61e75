"""Looking at a project: why a value is what it is, what a model says, who stands on whom."""
