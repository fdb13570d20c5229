"""The results of a run, as one page that can be read offline, and as pictures."""
