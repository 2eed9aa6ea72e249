"""The tasks of the suite `recall`, a file each."""
