"""The reference names everything that is public, and nothing that is not there."""

import importlib
import inspect
import pkgutil
import re

import pytest
from docs.pages import ROOT

import tfmoe
from tfmoe.config import shipped_configs
from tfmoe.config.keys import config_keys

# Of these packages the names of `__all__` are public, of the other ones those of their modules.
BY_NAME = [
    "classic",
    "config",
    "data_pipelines",
    "data_pipelines.corpora",
    "distribute",
    "gating",
    "huggingface",
    "inspection",
    "inspection.doctor",
    "keras_hub",
    "layers",
    "models",
    "optimizers",
    "tasks",
    "testing",
]
BY_MODULE = ["analysis", "serving", "training"]
OLD_NAMES = {"tfmoe.training.inspection", "tfmoe.training.expert_summaries"}
DIRECTIVE = re.compile(r"^ *\.\. (currentmodule|automodule|auto\w+|py:\w+):: *(\S+)", re.MULTILINE)


def documented():
    """`(modules, names)` that the pages of the reference document, in full."""
    modules, names = set(), set()
    for path in (ROOT / "docs" / "reference" / "python").glob("*.md"):
        module = None
        for kind, name in DIRECTIVE.findall(path.read_text(encoding="utf-8")):
            if kind == "currentmodule":
                module = name
            elif kind == "automodule":
                modules.add(name)
            else:
                names.add(name if name.startswith("tfmoe.") else f"{module}.{name}")
    return modules, names


MODULES, NAMES = documented()


def objects_of(modules, names):
    """What is documented: the ids of objects."""
    found = {id(resolved(name)) for name in names}
    for module in map(importlib.import_module, modules):
        found |= {id(each) for each in vars(module).values() if is_of(each, module)}
    return found


def resolved(name):
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def is_of(each, module):
    is_definition = inspect.isclass(each) or inspect.isfunction(each)
    return is_definition and each.__module__ == module.__name__


@pytest.mark.parametrize("package", BY_NAME)
def test_public_names_are_documented(package):
    module = importlib.import_module(f"tfmoe.{package}")
    known = objects_of(MODULES, NAMES)
    missing = [name for name in module.__all__ if id(getattr(module, name)) not in known]
    assert missing == []


def test_the_names_of_tfmoe_are_documented():
    known = objects_of(MODULES, NAMES)
    names = [name for name in getattr(tfmoe, "__all__", []) if not name.startswith("_")]
    assert [name for name in names if id(getattr(tfmoe, name)) not in known] == []


@pytest.mark.parametrize("package", BY_MODULE)
def test_modules_are_documented(package):
    path = importlib.import_module(f"tfmoe.{package}").__path__
    modules = {f"tfmoe.{package}.{each.name}" for each in pkgutil.iter_modules(path)}
    assert modules - OLD_NAMES <= MODULES


def test_what_can_be_named_in_a_config_is_documented():
    known = objects_of(MODULES, NAMES)
    for registry in ("gating.GATES", "layers.BLOCKS", "optimizers.SCHEDULES"):
        for value in resolved(f"tfmoe.{registry}").values():
            assert id(value) in known, value


@pytest.mark.parametrize("name", sorted(NAMES))
def test_documented_names_exist(name):
    resolved(name)


def test_every_package_has_a_page():
    pages = {path.stem for path in (ROOT / "docs" / "reference" / "python").glob("*.md")}
    packages = {each.name for each in pkgutil.iter_modules(tfmoe.__path__) if each.ispkg}
    assert packages - {"cli"} <= pages


def test_commands_have_their_help(generated_pages):
    text = generated_pages.commands()
    for name, command in generated_pages.get_command(generated_pages.command_line).commands.items():
        assert f"## tfmoe {name}\n" in text
        for parameter in command.params:
            if parameter.opts[0].startswith("--"):
                assert f"`{parameter.opts[0]}" in text
    assert "\b" not in text and "```text\ntfmoe train " in text


def test_every_key_is_on_the_page(generated_pages):
    text = generated_pages.keys()
    for section in config_keys():
        for key in section.keys:
            assert f"`{key.key}: " in text
    assert "\n### noisy\\_top\\_k\n" in text
    assert all("paper" in config or config for config in shipped_configs())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a_b <S> `c_d` [T, D] $1", r"a\_b \<S\> `c_d` \[T, D\] \$1"),
        ("``x`y`` *", r"``x`y`` \*"),
    ],
)
def test_plain_text_as_markdown(text, expected, generated_pages):
    assert generated_pages.escaped(text) == expected
