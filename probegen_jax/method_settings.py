"""What a method asks of the settings beyond having its own."""

from ml_collections import ConfigDict

from probegen_jax.errors import UserError
from probegen_jax.method.generators.registry import METHODS


def check_method(config: ConfigDict, usual: int) -> None:
    """Refuses a config that does not say where its method's probes come from, or how many.

    Sets `num_probes` where the method decides it; what was given must be that, or the `usual`.
    """
    method = METHODS[config.method]
    if method.source and not config.get(method.source):
        raise UserError(
            f"method is {config.method!r}, which takes its probes from {method.source}; say where "
            f"they are with --config.{method.source}=…"
        )
    if method.number is None:
        return
    probes, keys = method.number(config), ", ".join(method.settings)
    if probes and config.num_probes not in (probes, usual):
        raise UserError(
            f"num_probes is {config.num_probes}, but {config.method} has {probes} by {keys}; "
            f"change {keys} instead"
        )
    config.num_probes = probes
