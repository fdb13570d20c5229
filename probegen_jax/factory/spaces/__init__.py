"""The search spaces that `build_zoo cnn --space=NAME` knows; each file has a `get_space()`."""
