"""The zoos that are made on first use, from images that scikit-learn carries."""
