"""Models that several image tasks share."""
