"""Published benchmarks of long documents: their files, their questions, their metrics, one module a benchmark."""
