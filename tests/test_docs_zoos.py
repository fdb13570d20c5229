import pathlib
import re
import shlex

import pytest

from probegen_jax.zoo.__main__ import main

REPO = pathlib.Path(__file__).resolve().parent.parent


def test_the_code_in_the_docs_runs(tmp_path, monkeypatch, capsys):
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "configs").symlink_to(REPO / "configs")
    blocks = re.findall(r"```(\w+)\n(.*?)```", (REPO / "docs" / "zoos.md").read_text(), re.DOTALL)
    assert [language for language, _ in blocks] == ["python", "bash", "python"]
    for language, code in blocks:
        if language == "python":
            exec(compile(code, "docs/zoos.md", "exec"), {})
            continue
        python, dash_m, module, *flags = shlex.split(code.replace("\\\n", " "))
        assert (python, dash_m, module) == ("python", "-m", "probegen_jax.zoo")
        main([module, *flags])
        assert "my_zoo: 40 networks of 8,707 weights" in capsys.readouterr().out
    assert "mine: 100 networks of 1,185 weights" in capsys.readouterr().out
