"""CNNs with images in the last axis are the networks that their spec says, gradients too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from probegen_jax.factory.cnn import images_last
from probegen_jax.factory.cnn.dropout import Dropout
from probegen_jax.networks.cnn import forward
from probegen_jax.networks.cnn.cnn import CnnSpec
from probegen_jax.networks.cnn.layer import ConvLayer

NETWORKS = {
    "Small CNN Zoo": CnnSpec(
        (ConvLayer(1, 4, 3, 2, 0, "tanh"), ConvLayer(4, 5, 3, 2, 0, "relu")), 10, (12, 12, 1)
    ),
    "Wild Park": CnnSpec(
        (
            ConvLayer(3, 4, 7, 1, 3, "gelu"),
            ConvLayer(4, 6, 5, 1, 2, "sigmoid"),
            ConvLayer(6, 2, 3, 1, 1, "leaky_relu", residual=0),
        ),
        10,
        (9, 8, 3),
    ),
    "strides that leave pixels out": CnnSpec(
        (
            ConvLayer(2, 4, 2, 3, 0, "tanh"),
            ConvLayer(4, 3, 4, 3, 1, "relu"),
            ConvLayer(3, 2, 1, 2, 0, "tanh"),
        ),
        3,
        (19, 14, 2),
    ),
}


@pytest.mark.parametrize("spec", NETWORKS.values(), ids=NETWORKS)
def test_logits_and_gradients_are_those_of_the_spec(spec):
    weights = spec.init(jax.random.key(0))
    images = jax.random.normal(jax.random.key(1), (6, *spec.image_shape))
    wanted = jax.random.normal(jax.random.key(2), (6, spec.num_classes))

    def plain(weights):
        logits = spec.apply(weights, images)
        return jnp.sum(logits * wanted), logits

    def last(weights):
        logits = images_last.run(spec.layers, weights, images.transpose(3, 1, 2, 0))
        return jnp.sum(logits * wanted), logits

    (one, other) = (jax.jit(jax.value_and_grad(f, has_aux=True))(weights) for f in (plain, last))
    np.testing.assert_allclose(one[0][1], other[0][1], atol=1e-5)
    for ours, plains in zip(jax.tree.leaves(other[1]), jax.tree.leaves(one[1]), strict=True):
        np.testing.assert_allclose(ours, plains, atol=2e-5 * max(1, float(abs(plains).max())))


@pytest.mark.parametrize("name", NETWORKS)
def test_dropout_does_what_it_says_to_each_layer(name):
    spec = NETWORKS[name]
    weights = spec.init(jax.random.key(0))
    images = jax.random.normal(jax.random.key(1), (2, *spec.image_shape)).transpose(3, 1, 2, 0)
    dropout = Dropout(jnp.float32(0.4), (jnp.uint32(7), 2))

    def by_hand(weights):
        # Each image alone, in the usual order of axes, with the choices of all.
        def dropped(i):
            def drop(x, layer):
                shape = x.shape[3], *x.shape[1:3], images.shape[3]
                keep = dropout.keeps(shape, layer)[..., i].transpose(1, 2, 0)
                return jnp.where(keep, x / (1 - 0.4), 0)

            return drop

        logits = []
        for i in range(images.shape[3]):
            convolutions = [
                lambda x, kernel, layer=layer: layer.convolve(x, kernel) for layer in spec.layers
            ]
            x = images[..., i].transpose(1, 2, 0)[None]
            logits.append(forward.run(spec.layers, (), weights, x, convolutions, dropped(i)))
        logits = jnp.concatenate(logits)
        return jnp.sum(jnp.sin(logits)), logits

    def last(weights):
        logits = images_last.run(spec.layers, weights, images, dropout)
        return jnp.sum(jnp.sin(logits)), logits

    one, other = (jax.jit(jax.value_and_grad(f, has_aux=True))(weights) for f in (by_hand, last))
    np.testing.assert_allclose(one[0][1], other[0][1], atol=1e-5)
    for ours, plains in zip(jax.tree.leaves(other[1]), jax.tree.leaves(one[1]), strict=True):
        np.testing.assert_allclose(ours, plains, atol=2e-5 * max(1, float(abs(plains).max())))
