"""What turns a Torch7 file into PyTorch weights, with a proof. Nothing is imported here."""
