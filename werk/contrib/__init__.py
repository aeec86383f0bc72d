"""Middleware for third-party tools. Each module needs the extra of its name: `werk[sentry]`."""
