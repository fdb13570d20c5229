"""What `benchmarks.run` found, as a table and a plot."""

import pathlib
from typing import Any

from matplotlib.figure import Figure

from probegen_jax.report.figures import save

_NAMES = {
    "ours": "ours",
    "seeds3": "ours, three seeds at once",
    "hidden": "ours, `readout=hidden`",
    "hidden3": "ours, `readout=hidden`, three seeds at once",
    "naive": "naive jax.vmap",
    "loop": "PyTorch loop",
    "lean": "PyTorch loop, detached weights",
    "compile": "PyTorch loop, torch.compile",
    "vmap": "torch.func.vmap",
    "loop from files": "PyTorch loop, a file a network",
}
_WORK = {
    "probing": "responses and the probes' gradient",
    "step": "a training step",
    "epoch": "an epoch, a network",
}


def markdown(results: dict[str, Any]) -> str:
    """The results of all cases, a table each."""
    machine = results["machine"]
    lines = [
        f"{machine['date']}, {machine['cores']} cores of {machine['cpu']} (load at the start "
        f"{machine['load_at_start']:.1f}), Python {machine['python']}, jax {machine['jax']}, torch "
        f"{machine['torch']}; batches of 32 networks, {results['probes']} probes; median (least to "
        "most), and how many times longer than ours.",
        "",
    ]
    for name, found in results["cases"].items():
        lines += [f"### {name}", ""]
        if found.get("error"):
            lines += [f"failed: {found['error']}", ""]
        if "step" not in found:
            continue
        lines += ["| work | by | time | times ours | peak memory |", "|---|---|---|---|---|"]
        for work, told in _WORK.items():
            ours = found.get(work, {}).get("ours", {}).get("median")
            for side, seconds in found.get(work, {}).items():
                times = f"{seconds['median'] / ours:.2f}" if ours else ""
                peak = (found.get("peak_gb") or {}).get(side) if work == "step" else None
                spread = f"{_time(seconds['min'])} to {_time(seconds['max'])}"
                lines.append(
                    f"| {told} | {_NAMES[side]} | {_time(seconds['median'])} ({spread}) | {times} "
                    f"| {f'{peak:.2f} GB' if peak else ''} |"
                )
        lines += ["", _limits(found) if "probing" in found else f"On {found['device']}.", ""]
        for key, seconds in (found.get("scaling") or {}).items():
            steps = ", ".join(f"{value}: {_time(each)}" for value, each in seconds.items())
            if steps:
                lines += [f"Our step by {key}: {steps}.", ""]
    return "\n".join(lines)


def _limits(found: dict[str, Any]) -> str:
    """One line on the distance from the machine's limits."""
    facts = found["facts"]["probing ours"]
    line = (
        f"On {found['device']}: probing needs {found['gflops_needed']:.2f} GFLOP and makes "
        f"{found['gflops_per_s']:.0f} GFLOP/s, {found['share_of_peak']:.0%} of the measured GEMM "
        f"peak ({found['gemm_peak_gflops_per_s']:.0f}); arithmetic done / needed "
        f"{found['arithmetic_done_over_needed']:.2f}"
    )
    if facts.get("xla_bytes"):
        line += f"; XLA counts {facts['xla_bytes'] / 1e6:.0f} MB moved (loop bodies once)"
    compiled = found["facts"].get("ours", {}).get("compile_s")
    return line + (f"; the step compiles in {compiled:.1f} s." if compiled else ".")


def _time(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} µs"


def draw(path: pathlib.Path, results: dict[str, Any]) -> None:
    """Bars of each case's training step."""
    cases = {name: each for name, each in results["cases"].items() if "step" in each}
    if not cases:
        return
    figure = Figure(figsize=(4.6 * len(cases), 2.8), layout="constrained")
    for panel, (name, found) in enumerate(cases.items(), 1):
        axes = figure.add_subplot(1, len(cases), panel)
        sides = list(found["step"])[::-1]
        seconds = [found["step"][side]["median"] for side in sides]
        colors = ["#e4572e" if side.startswith(("ours", "seeds")) else "#7a8b99" for side in sides]
        axes.barh([_NAMES[side] for side in sides], seconds, color=colors)
        for row, each in enumerate(seconds):
            place = {"textcoords": "offset points", "va": "center", "fontsize": 7}
            axes.annotate(_time(each), (each, row), (3, 0), **place)
        axes.set_xlim(0, 1.2 * max(seconds))
        axes.set_xticks([])
        axes.tick_params(labelsize=7)
        axes.set_title(f"{name}: a training step", fontsize=9)
    save(figure, path)
