"""The error of a network on labelled images, counted by one process or by many."""
