"""Exit codes of the command line."""

OK, WRONG_CONFIG, DIFFERENT = 0, 1, 2
WRONG_USAGE, OUR_BUG = 64, 70
"""EX_USAGE and EX_SOFTWARE of sysexits.h."""
READER_GONE = 128 + 13
"""What shells say of a program that SIGPIPE has ended, as `llm-serve compile --check | head` does."""
INTERRUPTED = 128 + 2
