"""TFDS builders of the published zoos.

They write `array_record` files and never import TensorFlow. A zoo is prepared once, into
`DATA_DIR/<name>/<split>/<version>`, in a folder that gets its name only when it is complete.
"""
