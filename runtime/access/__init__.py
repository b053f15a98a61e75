"""Who may come in, to what, how often; and what is known of a request while it is there. Knows nothing of HTTP."""
