"""A gallery: an application of Flask that enqueues jobs."""
