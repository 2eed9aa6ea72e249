"""Settings as data: one yaml file a command, one folder a group (`group=name`). No code."""
