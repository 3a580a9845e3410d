"""The ways to read logs: one module for each wire."""
