"""Reading: from bytes on disk to a located tree."""
