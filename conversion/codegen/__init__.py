"""A literal graph as Python code that needs torch only."""
