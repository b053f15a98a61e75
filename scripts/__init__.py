"""Programs for those who work on llm-serve itself."""
