"""Compiling for devices that are not there: the reader of programs, and what steps consist of."""

import dataclasses
import importlib.util
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from conftest import REPO

from benchmarks import ahead, cases, hlo, step, targets
from probegen_jax.errors import UserError
from probegen_jax.runs import experiment
from probegen_jax.training.mesh import make_mesh

PROGRAM = """\
HloModule jit_run, is_scheduled=true

%part (p.0: f32[8,4], p.1: s32[]) -> f32[1,4] {
  %p.0 = f32[8,4]{1,0} parameter(0)
  %p.1 = s32[] parameter(1)
  %zero = s32[] constant(0)
  ROOT %row = f32[1,4]{1,0} dynamic-slice(%p.0, %p.1, %zero), dynamic_slice_sizes={1,4}
}

%inner (arg: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %arg = (s32[], f32[8,4]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%arg), index=0
  %x = f32[8,4]{1,0} get-tuple-element(%arg), index=1
  %gemm = (f32[8,4]{1,0}, s8[64]{0}) custom-call(%x, %x), custom_call_target="__cublas$gemm"
  %y = f32[8,4]{1,0} get-tuple-element(%gemm), index=0
  ROOT %out = (s32[], f32[8,4]{1,0}) tuple(%i, %y)
}

%cheap (c.0: f32[8,4]) -> f32[8,4] {
  ROOT %c.0 = f32[8,4]{1,0} parameter(0)
}

%dear (d.0: f32[8,4]) -> f32[8,4] {
  %d.0 = f32[8,4]{1,0} parameter(0)
  ROOT %sine = f32[8,4]{1,0} sine(%d.0), backend_config={"estimated_cycles":"70"}
}

%test (t: (s32[], f32[8,4])) -> pred[] {
  %t = (s32[], f32[8,4]{1,0}) parameter(0)
  ROOT %more = pred[] constant(true)
}

%body (b: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %b = (s32[], f32[8,4]{1,0}) parameter(0)
  %n = s32[] get-tuple-element(%b), index=0
  %z = f32[8,4]{1,0} get-tuple-element(%b), index=1
  %fusion.1 = f32[1,4]{1,0} fusion(%z, %n), kind=kLoop, calls=%part, metadata={op_name="a(b)=c"}, \
backend_config={"window_config":{"estimated_cycles":"5"}}
  %while.1 = (s32[], f32[8,4]{1,0}) while(%b), condition=%test, body=%inner, \
backend_config={"known_trip_count":{"n":"6"}}
  %while.2 = (s32[], /*index=1*/f32[8,4]{1,0}) while(%while.1), condition=%test, body=%inner
  %w = f32[8,4]{1,0} get-tuple-element(%while.2), index=1
  %if = f32[8,4]{1,0} conditional(%n, %w, %w), branch_computations={%cheap, %dear}
  %sum-start = f32[8,4]{1,0} all-reduce-start(%if), to_apply=%cheap
  %sum = f32[8,4]{1,0} all-reduce-done(%sum-start)
  ROOT %next = (s32[], f32[8,4]{1,0}) tuple(%n, %sum)
}

ENTRY %main (a.0: s32[], a.1: f32[8,4]) -> (s32[], f32[8,4]) {
  %a.0 = s32[] parameter(0)
  %a.1 = f32[8,4]{1,0} parameter(1)
  %start = (s32[], f32[8,4]{1,0}) tuple(%a.0, %a.1)
  ROOT %steps = (s32[], f32[8,4]{1,0}) while(%start), condition=%test, body=%body
}
"""


def test_a_program_is_counted_as_it_runs():
    counts = hlo.parse(PROGRAM).step()
    assert counts.libraries == {"__cublas$gemm": 6 + 1}  # of unknown length counts once
    assert counts.kernels == 2  # the fusion and the dearer branch
    assert counts.cycles == 5 + 70
    assert counts.collectives == {"all-reduce": 1}
    assert [loop.trips for loop in counts.control if loop.kind == "while"] == [6, None]
    assert (counts.unknown, counts.conditionals) == (1, 1)
    array = 8 * 4 * 4
    of_fusion, of_gemm = 2 * 16 + 4, 2 * array + array + 64
    assert counts.traffic == of_fusion + 7 * of_gemm + 2 * array + 2 * array


@pytest.mark.parametrize(("step", "length"), [("%one", 9), ("%two", None), ("%i", None)])
def test_a_loop_without_a_note_is_as_long_as_what_its_counter_reaches(step, length):
    program = (
        PROGRAM.replace("condition=%test, body=%inner\n", "condition=%below, body=%counting\n")
        + f"""
%below (t: (s32[], f32[8,4])) -> pred[] {{
  %end = s32[] constant(9)
  %t = (s32[], f32[8,4]{{1,0}}) parameter(0)
  %n = s32[] get-tuple-element(%t), index=0
  ROOT %less = pred[] compare(%n, %end), direction=LT
}}

%counting (q: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {{
  %q = (s32[], f32[8,4]{{1,0}}) parameter(0)
  %one = s32[] constant(1)
  %two = s32[] constant(2)
  %i = s32[] get-tuple-element(%q), index=0
  %x = f32[8,4]{{1,0}} get-tuple-element(%q), index=1
  %added = s32[] add(%i, {step})
  ROOT %out = (s32[], f32[8,4]{{1,0}}) tuple(%added, %x)
}}
"""
    )
    loops = [loop.trips for loop in hlo.parse(program).step().control if loop.kind == "while"]
    assert loops == [6, length]


def test_nested_loops_say_where_they_lie():
    nested = (
        PROGRAM.replace("body=%inner, backend", "body=%deep, backend")
        + """
%deep (q: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %q = (s32[], f32[8,4]{1,0}) parameter(0)
  ROOT %while.3 = (s32[], f32[8,4]{1,0}) while(%q), condition=%test, body=%inner, \
backend_config={"known_trip_count":{"n":"10"}}
}
"""
    )
    counts = hlo.parse(nested).step()
    assert counts.libraries == {"__cublas$gemm": 6 * 10 + 1}
    assert hlo.Loop(("while.1",), "while", 10) in counts.control


def test_sizes_of_shapes():
    assert hlo.size_of("(f32[2,3]{1,0}, s8[5], pred[7], bf16[4], s32[])") == 24 + 5 + 7 + 8 + 4


def test_a_compiled_program_is_read():
    def run(x, start, stop):
        return jax.lax.fori_loop(start, stop, lambda _, x: jnp.sin(x @ x), x)

    x = jnp.ones((16, 16))
    traced = jax.jit(run).trace(x, 0, 3)
    counts = hlo.parse(traced.lower().compile().as_text()).step()
    assert counts.kernels + sum(counts.libraries.values()) >= 1 and counts.traffic >= 3 * x.nbytes
    assert step.flops(traced.jaxpr.jaxpr) == 2 * 16**3

    def fixed(x, kernel):
        x = jax.lax.scan(lambda x, _: (x @ x, None), x, length=4)[0]
        return jax.lax.conv(x[None, None], kernel, (1, 1), "SAME")

    jaxpr = jax.make_jaxpr(fixed)(x, jnp.ones((5, 1, 3, 3)))
    assert step.flops(jaxpr.jaxpr) == 4 * 2 * 16**3 + 2 * 16 * 16 * 9 * 5


def traced(name, platform):
    case = cases.make(name, 32, 128)
    config = case.config.copy_and_resolve_references()
    config.num_seeds = 1
    made = experiment.set_up(config, case.zoo, platform)
    return step.trace(made, make_mesh(config.batch_size, devices=jax.devices()[:1]), 1000)


@pytest.mark.parametrize(("platform", "target"), [("gpu", "cuda"), ("tpu", "tpu")])
@pytest.mark.parametrize("name", ["mnist_inr", "cifar10_gs"])
def test_a_step_has_no_control_flow_of_its_own(name, platform, target):
    program = traced(name, platform)
    text = program.lower(lowering_platforms=(target,)).as_text()
    assert hlo.control_flow(text) == {"while": 1 + (name == "cifar10_gs")}  # steps; seeds in turn
    assert step.flops(program.jaxpr.jaxpr) > 1e7


@pytest.mark.slow
def test_resnets_run_one_after_another_and_forwards_twice():
    program = traced("resnet18", "gpu")
    text = program.lower(lowering_platforms=("cuda",)).as_text()
    # Steps, seeds in turn, and networks, there and back.
    assert hlo.control_flow(text) == {"while": 4}
    needed = 32 * 128 * cases.make("resnet18", 32, 128).flops_N[0]
    assert 1.5 < step.flops(program.jaxpr.jaxpr) / needed < 1.8  # zeros of strides count, too


def test_control_flow_is_counted():
    text = jax.jit(lambda x: jax.lax.cond(x > 0, jnp.sin, jnp.cos, x)).lower(1.0).as_text()
    assert hlo.control_flow(text) == {"case": 1}


def error_of(*arguments):
    command = [sys.executable, "-m", "benchmarks.ahead", *arguments]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    return done.stderr


def test_mistakes_are_told_in_a_line(monkeypatch):
    assert "choose from h100, h100:8, v5e:2x2" in error_of("--target=h99")
    for target, message in (
        ("h100:2x2", "takes a number of devices"),
        ("v5e:4", "takes a shape, as in v5e:2x2"),
    ):
        with pytest.raises(UserError, match=message):
            targets.devices(target)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for target, name in (("h100", "gpu"), ("v6e:2x2", "tpu")):
        with pytest.raises(UserError, match=f"pip install -r requirements-ahead-{name}.txt"):
            targets.devices(target)


def test_a_zoo_that_does_not_fit_is_found_out():
    made = experiment.set_up(
        cases.make("mnist_inr", 32, 128).config, cases.make("mnist_inr", 32, 128).zoo, "cpu"
    )
    small = dataclasses.replace(targets.KINDS["h100"], memory=1e6)
    facts = ahead.compiled(small, jax.devices()[:1], made, 70_000)
    assert not facts["fits"] and facts["bytes"]["argument"] > 70_000 * 1185 * 4
    assert facts["loops_of_unknown_length"] == 0 and json.dumps(facts)
    assert "70,000" in ahead.table("x", facts)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "module"), [("h100", "jax_cuda13_plugin"), ("v5e:2x2", "libtpu")]
)
def test_a_step_compiles_for_what_is_not_there(target, module, tmp_path):
    pytest.importorskip(module)
    out = tmp_path / "found.json"
    command = [sys.executable, "-m", "benchmarks.ahead", f"--target={target}", f"--json={out}"]
    subprocess.run([*command, "--case=mnist_inr"], cwd=REPO, check=True)
    facts = json.loads(out.read_text())["cases"]["mnist_inr"]
    assert facts["fits"] and not facts["loops_of_unknown_length"] and not facts["conditionals"]
    assert facts["collectives"] == ({"all-reduce": 1} if facts["devices"] > 1 else {})
    assert facts["kernels"] < 120
