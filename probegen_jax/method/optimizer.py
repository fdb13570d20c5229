"""The paper's optimiser: Adam with a cosine learning rate, stepped every batch."""

import optax


def adam_cosine(learning_rate: float, total_steps: int) -> optax.GradientTransformation:
    """Adam (β 0.9, 0.999; ε 1e-8; no decay), learning rate from its peak to 0 in `total_steps`."""
    return optax.adam(optax.cosine_decay_schedule(learning_rate, total_steps))
