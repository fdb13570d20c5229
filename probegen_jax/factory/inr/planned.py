"""Which networks an INR zoo has: of which image, in which split."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Int

from probegen_jax.errors import UserError
from probegen_jax.factory.images.sources import ImageSet
from probegen_jax.zoo.splits import INR_VAL_SHARE


@dataclasses.dataclass(frozen=True)
class Networks:
    """The networks of a zoo, in the order train, val, test.

    Attributes:
      image: of each network; it counts through the images to train on, then those to test on.
      copy: of each network, from 0 for each image.
      label: the image's class.
      splits: rows of each split.
    """

    image: Int[np.ndarray, " N"]
    copy: Int[np.ndarray, " N"]
    label: Int[np.ndarray, " N"]
    splits: dict[str, Any]

    def __len__(self) -> int:
        return len(self.image)


def choose(images: ImageSet, num: int | None, copies: int, seed: int) -> Networks:
    """The networks for a source of images.

    Test networks are of the source's test images, validation networks of its images for that;
    where it has none, a twelfth of the others is for validation, as of the published zoos. All
    copies of an image are in one split.

    Args:
      num: so many images, drawn by seed, in the source's proportion of test images; None: all.

    Raises:
      UserError: more images are asked for than there are, or too few for three splits.
    """
    total = len(images.train) + len(images.test)
    number = total if num is None else num
    if number > total:
        raise UserError(f"--num is {number:,}, but {images.name} has {total:,} images")
    tests = max(1, round(number * len(images.test) / total))
    if number - tests < 2 or number - tests > len(images.train):
        raise UserError(f"{number} images are too few for train, val and test; give more")
    rng = np.random.default_rng(seed)
    train = np.sort(rng.permutation(len(images.train))[: number - tests])
    test = np.sort(rng.permutation(len(images.test))[:tests])
    is_val = np.zeros(len(train), bool)
    is_val[rng.permutation(len(train))[: max(1, round(INR_VAL_SHARE * len(train)))]] = True
    if images.num_val:
        is_val = train >= len(images.train) - images.num_val
        if not 0 < is_val.sum() < len(train):
            raise UserError(f"{number} images are too few for train, val and test; give more")
    parts = {"train": train[~is_val], "val": train[is_val], "test": len(images.train) + test}
    splits, start = {}, 0
    for split, rows in parts.items():
        splits[split] = range(start, start + len(rows) * copies)
        start = splits[split].stop
    image = np.repeat(np.concatenate(list(parts.values())), copies).astype(np.int32)
    copy = np.tile(np.arange(copies, dtype=np.int32), number)
    labels = np.concatenate([images.train.labels, images.test.labels])
    return Networks(image, copy, labels[image], splits)
