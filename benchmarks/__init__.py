"""What must be measured, measured on this machine: `python -m benchmarks [CASE…]`."""
