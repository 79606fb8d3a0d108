"""The commands of `python -m resnext`, one file each, and what they share."""
