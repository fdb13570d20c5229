"""From the name of a data set to its zoo."""

import pathlib

from probegen_jax.errors import UserError
from probegen_jax.zoo import digits, digits_cnn
from probegen_jax.zoo.zoo import Zoo


def load(dataset: str, data_dir: str | None) -> Zoo:
    """The zoo called `dataset`, with weights on the host.

    Args:
      dataset: its name in the config.
      data_dir: where prepared zoos are kept; the user's cache folder if None.

    Raises:
      UserError: no zoo of that name.
    """
    folder = pathlib.Path(data_dir).expanduser() if data_dir else None
    if dataset == "digits":
        return digits.load(folder)
    if dataset == "digits_cnn":
        return digits_cnn.load(folder)
    raise UserError(
        f"dataset is {dataset!r}; choose digits, digits_cnn, mnist_inr, fmnist_inr, cifar10_gs, "
        "cifar10_wild_park or own_inr"
    )
