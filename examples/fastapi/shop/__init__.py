"""A shop: an application of FastAPI that enqueues jobs."""
