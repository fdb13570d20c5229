"""Damaged zoos: told in one line, or without any effect; never a stack trace or another zoo."""

import collections
import contextlib
import hashlib
import io
import json
import random
import shutil

import jax
import numpy as np
import published_files
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probegen_jax.errors import UserError
from probegen_jax.factory import parts
from probegen_jax.networks import registry
from probegen_jax.zoo import cache
from probegen_jax.zoo.prepared import built_zoos
from probegen_jax.zoo.prepared.builders import Request
from probegen_jax.zoo.published import loading


def published(folder):
    return loading.load("cifar10_gs", folder)


LOAD = {"inr": built_zoos.load, "cnn": built_zoos.load, "published": lambda f, _: published(f)}


@pytest.fixture(scope="module")
def zoos(built_zoos_dir, tmp_path_factory):
    """A zoo of each kind, and each once more as earlier versions made it, without checksums."""
    folder = tmp_path_factory.mktemp("zoos")
    shutil.copytree(built_zoos_dir, folder, dirs_exist_ok=True)
    published_files.cifar10_gs(folder / "files", 360)
    loading.load("cifar10_gs", folder / "published", request=Request(manual_dir=folder / "files"))
    for name in LOAD:
        shutil.copytree(folder / name, folder / f"{name}, old")
        (sums,) = (folder / f"{name}, old").rglob("SHA256SUMS")
        sums.unlink()
    return folder


def identity(zoo):
    """Everything that a zoo says of itself, and its bytes."""
    arrays = [*jax.tree.leaves((zoo.weights, dict(zoo.splits))), zoo.targets_N, zoo.runs_N]
    digest = hashlib.sha256(repr((registry.to_json(zoo.spec), zoo.name, zoo.task)).encode())
    digest.update(repr((zoo.num_outputs, zoo.image_shape, zoo.class_names)).encode())
    for array in arrays:
        array = np.asarray(array)
        digest.update(f"{array.dtype} {array.shape}".encode() + array.tobytes())
    return digest.hexdigest()


def truncate(content, rng):
    return content[: rng.randrange(len(content))]


def flip(content, rng):
    content = bytearray(content)
    for _ in range(rng.choice([1, 1, 8])):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    return bytes(content)


def overwrite(content, rng):
    start = rng.randrange(len(content))
    length = min(rng.choice([1, 64, 4096]), len(content) - start)
    return content[:start] + rng.randbytes(length) + content[start + length :]


def append(content, rng):
    return content + rng.choice([rng.randbytes(100), content, b"\0" * 65_536, b"\n"])


def replace(content, rng):
    return rng.choice([
        b"", b"{}", b"[]", b"null", b"7", b'"text"', b"NaN", b"[" * 100_000, b'{"a":' * 50_000,
        b"\xff\xfe\0", rng.randbytes(5000), b"\x80\x05." , b"{", b"1" * 5000, b'{"a": 1e999}',
    ])  # fmt: skip


def leaves(value, at=()):
    for key, below in value.items() if isinstance(value, dict) else enumerate(value):
        yield (*at, key)
        if isinstance(below, dict | list):
            yield from leaves(below, (*at, key))


def edit(content, rng):
    """Another value somewhere in JSON: of the same type, of another one, or none."""
    try:
        value = json.loads(content)
        *path, key = rng.choice(list(leaves(value)))
    except (ValueError, TypeError, IndexError, AttributeError):
        return flip(content, rng)
    place = value
    for step in path:
        place = place[step]
    old = place[key]
    others = [None, [], {}, "text", -1, 10**30, [[]], True, 0.5, "9" * 30, {"a": [1]}]
    if isinstance(old, bool | int | float):
        others += [old + 1, old * 2, -old] * 4
    if isinstance(old, str):
        others += [f"{old}0", old[:-1], old.upper(), "1", "../../x"] * 3
    if isinstance(old, list):
        others += [old[:-1], old + old[:1], old[::-1]] * 3
    place[key] = rng.choice(others)
    if rng.random() < 0.2:
        del place[key]
    return json.dumps(value).encode()


def exchange(content, rng):
    """Stands for the content of another file of the kind, which `fuzz` puts there."""
    return content


def fuzz(examples, files, run, capsys, title, may_differ=lambda path, damage: False):
    """Damages one file after another; `run(path)` gives what is the result, before and after."""
    counts, expected = collections.Counter(), {path: run(path) for path in files}
    damages = [truncate, flip, overwrite, append, replace, edit, exchange]

    @settings(max_examples=examples, deadline=None, derandomize=True, database=None)
    @given(st.sampled_from(files), st.sampled_from(damages), st.integers(0, 2**32))
    def check(path, damage, seed):
        rng, content = random.Random(seed), path.read_bytes()
        damaged = damage(content, rng)
        if damage is exchange:
            alike = [each for each in files if each.suffix == path.suffix]
            damaged = rng.choice(alike).read_bytes()
        if damaged == content:
            return
        path.write_bytes(damaged)
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                found = run(path)
        except UserError as error:
            assert "\n" not in str(error)
            what = "detected"
        else:
            what = "harmless" if found == expected[path] else "unnoticed"
            assert what == "harmless" or may_differ(path, damage), path
        finally:
            path.write_bytes(content)
        old = " of earlier versions" if ", old" in str(path) else ""
        kind = "shards" if "array_record" in path.name else path.suffix or path.name
        counts[f"{kind}{old}", what] += 1

    check()
    with capsys.disabled():
        print(f"\n{title}: {counts.total()} tried")
        for (kind, what), number in sorted(counts.items()):
            print(f"  {kind}: {number} {what}")
    return collections.Counter(what for _, what in counts.elements())


def examples(quick, many):
    return pytest.mark.parametrize("number", [quick, pytest.param(many, marks=pytest.mark.slow)])


@examples(200, 5000)
def test_a_prepared_zoo(number, zoos, capsys):
    hidden = lambda path: any(part[0] == "." for part in path.relative_to(zoos).parts)  # noqa: E731
    files = [p for p in zoos.rglob("*") if p.is_file() and not hidden(p)]
    files = sorted(p for p in files if "files" not in p.parts and p.name != "plan.json")

    def run(path):
        name = path.relative_to(zoos).parts[0]
        return identity(LOAD[name.removesuffix(", old")](zoos / name, None))

    def may_differ(path, damage):
        """Numbers in JSON, and which file is which, nothing told in earlier versions."""
        return ", old" in str(path) and (path.suffix == ".json" or damage is exchange)

    counts = fuzz(number, files, run, capsys, "prepared zoos", may_differ)
    assert counts["detected"] > counts["harmless"]


PLAN = {"family": "inr", "images": {"name": "x", "digest": "a" * 64}, "spec": {"w0": 30.0}}
PARTS = [{"weights": np.arange(6.0).reshape(2, 3), "psnr": np.ones(2) * part} for part in range(2)]


@examples(150, 5000)
def test_a_build_that_goes_on(number, tmp_path, capsys):
    def run(path):
        with parts.Build(tmp_path, PLAN, {"jax": "1"}) as build:
            build.run([2, 2], PARTS.__getitem__)
            found = [build.read(part) for part in range(2)]
        return repr(found), json.loads((tmp_path / "plan.json").read_text())

    run(None)
    files = [tmp_path / "plan.json", *sorted((tmp_path / "parts").iterdir())]
    may_differ = lambda path, damage: damage is exchange and path.suffix == ".npz"  # noqa: E731
    counts = fuzz(number, files, run, capsys, "builds", may_differ)
    assert counts["detected"] > counts["harmless"]


@examples(100, 5000)
@pytest.mark.filterwarnings("ignore:cache file .* is corrupt")
def test_arrays_that_are_kept_are_made_again(number, tmp_path, capsys):
    arrays = {"weights": np.arange(300, dtype=np.float32).reshape(3, 100), "names": np.array(["a"])}

    def run(path):
        return repr(cache.cached_arrays(tmp_path, "digits", {}, lambda: arrays))

    run(None)
    counts = fuzz(number, list(tmp_path.iterdir()), run, capsys, "kept arrays")
    assert counts.keys() == {"harmless"}
