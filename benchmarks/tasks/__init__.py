"""Tasks: what suites ask and how answers are judged, as pure functions of a seed. They know no model and no torch."""
