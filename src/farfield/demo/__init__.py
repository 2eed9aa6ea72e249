"""`make demo`: everything once, small, on two CPU cores; see `farfield.demo.__main__`."""
