"""Many processes as one job."""
