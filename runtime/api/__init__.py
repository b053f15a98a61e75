"""OpenAI's HTTP API: parsing at the border, answering in its shapes. Knows neither Ray nor an engine."""
