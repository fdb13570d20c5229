"""The former name of `python -m probegen_jax.describe_zoo`."""

import runpy

runpy.run_module("probegen_jax.describe_zoo", run_name="__main__")
