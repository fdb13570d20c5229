"""A function of the user's own as the networks of a zoo, in memory or named by a file."""

import dataclasses
import hashlib
import importlib.util
import pathlib
import re
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from probegen_jax import trees
from probegen_jax.errors import BadNetworkError, UserError, in_file
from probegen_jax.networks.contract import (
    NetworkSpec,
    check_at_least_one,
    check_finite,
    usual_block_sizes,
)
from probegen_jax.networks.options import ReadOptions

Function = Callable[[Any, jax.Array], jax.Array]

_PACKAGE = str(pathlib.Path(__file__).parents[1])
_TRIED = (2, 3)  # numbers of probes
_SMALL = 2**20  # weights; several larger networks at once would need too much memory


@dataclasses.dataclass(frozen=True)
class FunctionSpec(NetworkSpec):
    """Networks that are a function of weights and probes; made by `from_function`.

    Attributes:
      function: of one network's weights and probes (P, *probe_shape), to responses (P, R).
      shapes: of the weights, by name, in the order of the tree's leaves.
      source: a digest of the file that it came from; None where it was made in memory.
      block_size: networks of a batch that run side by side. If None, all; or, from a million
        weights, one after another.
    """

    function: Function = dataclasses.field(repr=False)
    tree: Any = dataclasses.field(repr=False)
    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    probe_shape: tuple[int, ...]
    response_dim: int
    source: str | None = None
    block_size: int | None = None

    def __post_init__(self):
        check_at_least_one(block_size=self.block_size)

    @property
    def num_weights(self) -> int:
        return sum(int(np.prod(shape)) for _, shape in self.shapes)

    @property
    def vmap_seeds(self) -> bool:
        return self._side_by_side

    @property
    def _side_by_side(self) -> bool:
        return self.block_size is None and self.num_weights < _SMALL

    def apply(self, weights: Any, probes: jax.Array) -> jax.Array:
        return self.function(weights, probes)

    def respond(self, weights: Any, probes: jax.Array) -> jax.Array:
        if self._side_by_side:
            return super().respond(weights, probes)

        @jax.checkpoint  # else a loop keeps the activations of all networks
        def one(network: Any) -> jax.Array:
            return self.function(network, probes)

        return jax.lax.map(one, weights, batch_size=self.block_size)

    def block_sizes(self, batch: int) -> Sequence[int | None]:
        return usual_block_sizes(batch)

    def abstract(self) -> Any:
        return jax.tree.unflatten(
            self.tree, [jax.ShapeDtypeStruct(shape, np.float32) for _, shape in self.shapes]
        )

    def expected(self, options: ReadOptions) -> str:
        return f"a network of the arrays {_shown(dict(self.shapes))}"

    def file_shapes(
        self, config: Mapping[str, Any] | None, name: str, options: ReadOptions
    ) -> dict[str, tuple[int, ...]]:
        return dict(self.shapes)

    def read(
        self,
        state: Mapping[str, np.ndarray],
        config: Mapping[str, Any] | None,
        name: str,
        options: ReadOptions,
    ) -> Any:
        """See `NetworkSpec`; arrays are named by what leads to them, as "params.Dense_0.kernel"."""
        check_finite(name, state)
        shapes = dict(self.shapes)
        for key in [*shapes, *state]:
            if key not in state or key not in shapes:
                has = "lacks" if key not in state else "has, and the function does not know,"
                raise BadNetworkError(name, f"{has} the array {key}")
            if state[key].shape != shapes[key]:
                said = f"has shape {state[key].shape}, the function's weights {shapes[key]}"
                raise BadNetworkError(name, f"{key} {said}")
        return jax.tree.unflatten(self.tree, [state[key] for key in shapes])

    def is_stacked(self, networks: Any) -> bool:
        leaves, tree = jax.tree.flatten(networks)
        said = [len(shape) + 1 for _, shape in self.shapes]
        return tree == self.tree and [np.ndim(leaf) for leaf in leaves] == said

    def to_json(self) -> dict[str, Any]:
        """What tells this function from another; not enough to make it again."""
        return {
            "source": self.source,
            "shapes": {name: list(shape) for name, shape in self.shapes},
            "probe_shape": list(self.probe_shape),
            "response_dim": self.response_dim,
        }


def from_function(
    function: Function, weights: Any, probe_shape: tuple[int, ...], block_size: int | None = None
) -> FunctionSpec:
    """Makes a family of networks of a function.

    Args:
      function: `function(weights, probes)` runs one network on all probes, (P, *probe_shape), and
        returns (P, R) in float32. It is traced by jax: it must be pure, and differentiable in the
        probes.
      weights: those of any one network, a pytree of float32 arrays; only the shapes count.
      probe_shape: (D,) for points, (H, W, C) for images.
      block_size: see `FunctionSpec`.

    Raises:
      UserError: the weights are of other types, or the function returns something else, cannot be
        traced, or is not pure.
    """
    leaves = trees.named(weights)
    for name, leaf in leaves.items():
        if getattr(leaf, "dtype", None) != np.float32:
            kind = getattr(leaf, "dtype", type(leaf).__name__)
            raise UserError(f"the weights' {name or 'array'} is {kind}; give arrays of float32")
    if not leaves:
        raise UserError("the weights hold no arrays; give those of one network, as a pytree")
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, np.float32), weights)
    dims = {_traced(function, shapes, (number, *probe_shape)) for number in _TRIED}
    if len(dims) > 1:
        counts = " or ".join(map(str, sorted(dims)))
        raise UserError(
            f"{_called(function)} returns {counts} values for a probe, by how many probes there "
            "are; it must be as many for each"
        )
    return FunctionSpec(
        function,
        jax.tree.structure(weights),
        tuple((name, tuple(leaf.shape)) for name, leaf in leaves.items()),
        tuple(probe_shape),
        dims.pop(),
        block_size=block_size,
    )


def _traced(function: Function, shapes: Any, probes_shape: tuple[int, ...]) -> int:
    """The values of a response; a `UserError` if the function is not one of a network."""
    called, probes = _called(function), jax.ShapeDtypeStruct(probes_shape, np.float32)
    try:
        with jax.checking_leaks():
            # A function of its own each time: jax remembers what it has traced.
            traces = [jax.make_jaxpr(lambda *a: function(*a))(shapes, probes) for _ in range(2)]
            answers = jax.eval_shape(function, shapes, probes)
    except Exception as error:  # of the user's code, or of jax about it
        raise UserError(_told(error, called)) from error
    texts = [re.sub(r"0x[0-9a-f]+", "", str(trace)) for trace in traces]
    constants = [[np.asarray(each) for each in trace.consts] for trace in traces]
    same = len(constants[0]) == len(constants[1]) and all(map(np.array_equal, *constants))
    if texts[0] != texts[1] or not same:
        raise UserError(
            f"{called} is not pure: called twice, it computes two different things; draw random "
            "numbers before, and change nothing outside of it"
        )
    shape, kind = getattr(answers, "shape", None), getattr(answers, "dtype", None)
    if shape is None or len(shape) != 2 or shape[0] != probes_shape[0] or shape[1] < 1:
        what = type(answers).__name__ if shape is None else f"an array of shape {shape}"
        raise UserError(
            f"{called} returns {what} for {probes_shape[0]} probes; it must return "
            f"({probes_shape[0]}, R), R values for each"
        )
    if kind != np.float32:
        raise UserError(f"{called} returns {kind}; it must return float32")
    return shape[1]


def try_out(spec: NetworkSpec, network: Any, name: str) -> None:
    """Runs a network once, and the gradient in its probes.

    Raises:
      UserError: it fails, answers otherwise than its spec says, with NaN, or twice differently.
    """
    rng = np.random.default_rng(0)
    probes = rng.uniform(-1, 1, (_TRIED[0], *spec.probe_shape)).astype(np.float32)

    def answers_and_sum(probes: jax.Array) -> tuple[jax.Array, jax.Array]:
        answers = spec.apply(network, probes)
        return jnp.sum(answers), answers

    run = jax.jit(jax.value_and_grad(answers_and_sum, has_aux=True))
    try:
        (_, answers), gradient = run(probes)
        (_, again), _ = run(probes)
    except Exception as error:
        raise UserError(_told(error, name)) from error
    expected = (_TRIED[0], spec.response_dim)
    if answers.shape != expected:
        raise UserError(
            f"{name} returns answers of shape {answers.shape}; its spec says {expected}"
        )
    for what, values in (("answers", answers), ("the gradient in the probes", gradient)):
        if not np.isfinite(values).all():
            raise UserError(
                f"{name}: {what} of the first network, to probes drawn from U(-1, 1), are NaN or "
                "infinite; look for logarithms, roots and divisions of 0"
            )
    if not np.array_equal(answers, again):
        raise UserError(f"{name} is not pure: it answers the same probes in two different ways")


def named(text: str) -> NetworkSpec:
    """The networks that `FILE.py:NAME` names; the file is run.

    Raises:
      UserError: there is no such file or name, it fails, or it is no `NetworkSpec`.
    """
    path, colon, name = text.rpartition(":")
    file = pathlib.Path(path).expanduser()
    if not colon or not name.isidentifier() or file.suffix != ".py":
        raise UserError(f"network is {text!r}; give a file and a name in it, as my_network.py:spec")
    try:
        code = file.read_bytes()
    except OSError as error:
        raise UserError(
            f"network is {text!r}, but {file} cannot be read ({error.strerror})"
        ) from error
    digest = hashlib.sha256(code).hexdigest()[:16]
    found = importlib.util.spec_from_file_location(f"probegen_network_{digest}", file)
    module = importlib.util.module_from_spec(found)
    sys.modules[found.name] = module  # where dataclasses look for their module
    sys.path.insert(0, str(file.resolve().parent))
    try:
        found.loader.exec_module(module)
    except Exception as error:  # the user's program, which can raise anything
        told = f"{file}: {error}" if isinstance(error, UserError) else in_file(error, file, file)
        told = told or f"{file}: {type(error).__name__}: {' '.join(str(error).split())}"
        raise UserError(told) from error
    finally:
        sys.path.remove(str(file.resolve().parent))
    spec = getattr(module, name, None)
    if not isinstance(spec, NetworkSpec):
        has = f"has no {name}" if spec is None else f"{name} is a {type(spec).__name__}"
        raise UserError(
            f"{file}: {has}; give the name of a NetworkSpec there, as "
            "spec = from_function(function, weights, probe_shape)"
        )
    if isinstance(spec, FunctionSpec):
        spec = dataclasses.replace(spec, source=digest)
    return spec


def _called(function: Function) -> str:
    return f"the function {getattr(function, '__name__', type(function).__name__)}"


def _told(error: Exception, called: str) -> str:
    """What went wrong in a function of the user's, and the last line of theirs on the way there."""
    text = " ".join(str(error).split()) or "no message"
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if "site-packages" not in frame.filename and not frame.filename.startswith(_PACKAGE)
    ]
    if frames:
        called += f" ({pathlib.Path(frames[-1].filename).name}, line {frames[-1].lineno})"
    return f"{called} fails: {type(error).__name__}: {text:.200}"


def _shown(shapes: Mapping[str, tuple[int, ...]]) -> str:
    few = [f"{name} {shape}" for name, shape in list(shapes.items())[:3]]
    return ", ".join(few) + (f" and {len(shapes) - 3} more" if len(shapes) > 3 else "")
