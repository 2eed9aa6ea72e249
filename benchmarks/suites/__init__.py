"""The settings of each suite, and what the runner needs of any of them: one module a suite."""
