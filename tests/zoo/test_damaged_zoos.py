"""Damaged zoos: told in one line, or without any effect; never a stack trace or another zoo."""

import collections
import hashlib
import json
import random
import shutil

import jax
import numpy as np
import published_files
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probegen_jax import build_zoo
from probegen_jax.errors import UserError
from probegen_jax.networks import registry
from probegen_jax.zoo.prepared import built_zoos
from probegen_jax.zoo.prepared.builders import Request
from probegen_jax.zoo.published import loading

INR = ["inr", "--images=digits", "--num=12", "--steps=2", "--hidden=4"]
CNN = ["cnn", "--images=digits", "--num=12", "--space=digits_cnn"]


def published(folder):
    return loading.load("cifar10_gs", folder)


LOAD = {"inr": built_zoos.load, "cnn": built_zoos.load, "published": lambda f, _: published(f)}


@pytest.fixture(scope="module")
def zoos(tmp_path_factory):
    """A zoo of each kind, and each once more as earlier versions made it, without checksums."""
    folder = tmp_path_factory.mktemp("zoos")
    for flags in (INR, CNN):
        build_zoo.main(["", *flags, f"--out={folder / flags[0]}"])
    published_files.cifar10_gs(folder / "files", 360)
    loading.load("cifar10_gs", folder / "published", request=Request(manual_dir=folder / "files"))
    for name in LOAD:
        shutil.copytree(folder / name, folder / f"{name}, old")
        (sums,) = (folder / f"{name}, old").rglob("SHA256SUMS")
        sums.unlink()
    return folder


def identity(zoo):
    """Everything that a zoo says of itself, and its bytes."""
    arrays = jax.tree.leaves((zoo.weights, dict(zoo.splits))) + [zoo.targets_N, zoo.runs_N]
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


DAMAGE = [truncate, flip, overwrite, append, replace, edit]


def files_of(folder):
    return sorted(p for p in folder.rglob("*") if p.is_file() and ".lock" not in p.name)


def fuzz(examples, files, run, capsys, title):
    """Damages one file after another; `run(path)` gives what is the result, before and after."""
    counts, expected = collections.Counter(), {path: run(path) for path in files}

    @settings(max_examples=examples, deadline=None, derandomize=True, database=None)
    @given(st.sampled_from(files), st.sampled_from(DAMAGE), st.integers(0, 2**32), st.data())
    def check(path, damage, seed, data):
        rng, content = random.Random(seed), path.read_bytes()
        others = [other for other in files if other.suffix == path.suffix and other != path]
        if seed % 11 == 0 and others:
            damaged = rng.choice(others).read_bytes()  # exchanged for another file of its kind
        else:
            damaged = damage(content, rng)
        if damaged == content:
            return
        kind = "data" if "array_record" in path.name else path.suffix[1:]
        path.write_bytes(damaged)
        try:
            result = run(path)
        except UserError as error:
            assert "\n" not in str(error)
            counts[kind, "detected"] += 1
        else:
            old = ", old" in str(path) and kind == "json"  # numbers in JSON had no checksum
            counts[kind, "harmless" if result == expected[path] else "unnoticed"] += 1
            assert old or result == expected[path]
        finally:
            path.write_bytes(content)

    check()
    with capsys.disabled():
        told = ", ".join(f"{kind} {what} {n}" for (kind, what), n in sorted(counts.items()))
        print(f"\n{title}: tried {counts.total()}: {told}")
    return counts


@pytest.mark.parametrize("examples", [200, pytest.param(5000, marks=pytest.mark.slow)])
def test_a_prepared_zoo(examples, zoos, capsys):
    files = [p for p in files_of(zoos) if "files" not in p.parts and p.name != "plan.json"]

    def run(path):
        name = path.relative_to(zoos).parts[0]
        return identity(LOAD[name.removesuffix(", old")](zoos / name, None))

    counts = fuzz(examples, files, run, capsys, "prepared zoos")
    assert counts["data", "unnoticed"] == 0 < counts["data", "detected"]
