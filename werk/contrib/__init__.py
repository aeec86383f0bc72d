"""Middleware for tools that people already run; each module needs the extra of its name."""
