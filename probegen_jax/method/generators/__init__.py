"""Where probes come from: the methods by name, and the classes that make their probes."""
