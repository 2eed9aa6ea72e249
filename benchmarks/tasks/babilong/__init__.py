"""BABILong: the facts of bAbI's twenty tasks, scattered in other text."""
