"""A shop: an application of Django that enqueues jobs."""
