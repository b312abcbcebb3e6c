"""Bridges to what people train with. Each module imports its framework, and nothing here imports a module."""
