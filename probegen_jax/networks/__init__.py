"""The networks of a zoo: a static spec and a pytree of weights, never Flax modules."""
