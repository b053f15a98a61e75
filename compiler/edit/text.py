"""Places of a file as offsets into its text."""

from compiler.diagnostics import Span


class Text:
    """A file's text, cut and filled by lines and columns that count from 1."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._starts = [0]
        for line in text.split("\n"):
            self._starts.append(self._starts[-1] + len(line) + 1)

    def start(self, span: Span) -> int:
        """Where the span begins."""
        return self._starts[span.line - 1] + span.column - 1

    def end(self, span: Span) -> int:
        """Behind its last character."""
        return min(len(self.text), self._starts[span.end_line - 1] + span.end_column - 1)

    def line_start(self, line: int) -> int:
        """Where a line begins."""
        return min(len(self.text), self._starts[line - 1])

    def slice(self, span: Span) -> str:
        """What the span covers."""
        return self.text[self.start(span) : self.end(span)]

    def replaced(self, start: int, end: int, new: str) -> str:
        """The text with `new` between two offsets."""
        return self.text[:start] + new + self.text[end:]
