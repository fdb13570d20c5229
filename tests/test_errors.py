import pytest

from probegen_jax import errors


def test_a_mistake_is_one_line_whatever_it_quotes(capsys):
    def main(argv):
        raise errors.UserError("model.pth: holds\n  two lines; replace it")

    with pytest.raises(SystemExit) as stop:
        errors.run(main)
    assert stop.value.code == errors.EXIT_USER_ERROR
    assert capsys.readouterr().err == "error: model.pth: holds   two lines; replace it\n"
