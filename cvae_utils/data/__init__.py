"""Files to aligned slices."""
