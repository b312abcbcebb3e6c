"""What operations share or are made of: nothing here is an operation by itself."""
