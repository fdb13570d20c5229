"""TFDS builders, one module per published zoo: `mnist_inr`, `fmnist_inr`, `cifar10_gs`,
`cifar10_wild_park`.

They write `array_record` files and never import TensorFlow. A zoo is prepared once, into
`DATA_DIR/<name>/<split>/<version>`, in a folder that gets its name only when it is complete.
"""
