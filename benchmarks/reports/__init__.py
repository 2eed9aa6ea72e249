"""What is made of result files: tables, intervals, figures, the page, exports and comparisons."""
