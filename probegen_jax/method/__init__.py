"""The paper: generators, responses, heads, and how they learn."""
