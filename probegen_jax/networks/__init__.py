"""The networks of a zoo: a static spec beside a pytree of weights, never Flax modules."""
