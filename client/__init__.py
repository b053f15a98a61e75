"""What talks to an OpenAI API from outside: a chat in the terminal, a load test. Knows nothing of the server's code."""
