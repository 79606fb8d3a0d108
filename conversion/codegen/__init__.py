"""A literal graph as Python source that needs torch only."""
