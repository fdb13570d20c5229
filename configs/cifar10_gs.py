"""CIFAR10-GS, the Small CNN Zoo's part on grayscale CIFAR-10. The paper's settings."""

from configs import small_cnn_zoo


def get_config(arg: str = ""):
    return small_cnn_zoo.get_config(f"cifar10,{arg}")
