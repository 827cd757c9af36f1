import sys

import pytest

from tfmoe import extras
from tfmoe.cli import main
from tfmoe.extras import EXTRAS, MissingExtra, optional, require


def test_a_module_is_imported_when_it_is_used(monkeypatch, tmp_path):
    (tmp_path / "lazy_package").mkdir()
    (tmp_path / "lazy_package/__init__.py").touch()
    (tmp_path / "lazy_package/part.py").write_text("value = 5\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(EXTRAS, "lazy_package", "text")
    part = optional("lazy_package.part")
    assert not hasattr(part, "__wrapped__")  # which inspect and doctest look for
    assert "lazy_package" not in sys.modules
    assert part.value == 5 and "lazy_package.part" in sys.modules
    with pytest.raises(AttributeError, match="other"):
        _ = part.other
    require("lazy_package")


@pytest.fixture
def remove(monkeypatch):
    """A function that makes a package missing during the test."""

    def remove(package):
        for name in list(sys.modules):
            if name.partition(".")[0] == package:
                monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, package, None)
        extras._loaded.cache_clear()

    yield remove
    extras._loaded.cache_clear()


def test_a_package_that_is_not_installed(remove):
    remove("num2words")
    message = r'this needs the package num2words: pip install "tfmoe\[text\]"'
    with pytest.raises(MissingExtra, match=message) as raised:
        _ = optional("num2words").num2words
    assert raised.value.name == "num2words"
    with pytest.raises(MissingExtra, match=message):
        require("sacrebleu", "num2words")


def test_windows_has_no_tensorflow_text(remove):
    remove("tensorflow_text")
    with pytest.raises(MissingExtra, match=r"\(on Linux and macOS; there is none for Windows\)$"):
        require("tensorflow_text")


def test_a_package_that_lacks_a_package_itself(monkeypatch, tmp_path):
    (tmp_path / "broken_package.py").write_text("import not_there_at_all\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(EXTRAS, "broken_package", "text")
    with pytest.raises(ModuleNotFoundError, match="not_there_at_all") as raised:
        _ = optional("broken_package").value
    assert not isinstance(raised.value, MissingExtra)


def test_a_package_of_no_extra():
    with pytest.raises(KeyError, match="numpy"):
        optional("numpy.linalg")


def test_message_of_the_command_line(remove, capsys):
    remove("sacrebleu")
    with pytest.raises(SystemExit) as ended:
        main(["prepare", "demo/translation"])
    assert ended.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith('tfmoe: this needs the package sacrebleu: pip install "tfmoe[text]"')
    assert len(err.splitlines()) == 1


def test_configs_can_be_read_without_the_packages_of_their_text(remove, capsys):
    remove("babel")
    run_main(["describe", "demo/language_model"])
    assert "ops/timestep" in capsys.readouterr().out


def run_main(arguments):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0
