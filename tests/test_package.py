"""What is installed: names, dependencies, versions."""

import ast
import json
import pathlib
import re
import subprocess
import sys
import tomllib

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from test_imports import EVERY_FILE, imports_of, type_checking

import tfmoe
from tfmoe.extras import EXTRAS

ROOT = pathlib.Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PYTHONS = ["3.11", "3.12", "3.13"]
# Names of packages that differ from their distribution's.
DISTRIBUTIONS = {"yaml": "pyyaml", "google": "protobuf"}


def ranges(lines):
    """`{distribution: Requirement}`."""
    requirements = map(Requirement, lines)
    return {requirement.name.lower(): requirement for requirement in requirements}


CORE = ranges(PROJECT["dependencies"])
BY_EXTRA = {extra: ranges(each) for extra, each in PROJECT["optional-dependencies"].items()}


def test_requirements_txt_is_the_core_and_all_extras():
    text = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    pinned = ranges(line for line in text.splitlines() if line and not line.startswith("#"))
    declared = CORE | {name: each for extra in BY_EXTRA.values() for name, each in extra.items()}
    assert {name: str(each) for name, each in pinned.items()} == {
        name: str(each) for name, each in declared.items()
    }
    for extra in BY_EXTRA.values():  # one range, wherever a package is named
        assert all(str(declared[name]) == str(each) for name, each in extra.items())


def distribution(package):
    return DISTRIBUTIONS.get(package, package.replace("_", "-").lower())


def test_every_package_of_an_extra_is_declared():
    missing = {
        package: extra
        for package, extra in EXTRAS.items()
        if distribution(package) not in BY_EXTRA[extra]
    }
    assert missing == {}


def test_the_core_is_all_that_is_imported():
    imported = {name.partition(".")[0] for path in EVERY_FILE for name, _ in imports_of(path)}
    others = imported - sys.stdlib_module_names - {"tfmoe"}
    assert {distribution(package) for package in others} <= CORE.keys()
    assert not others & EXTRAS.keys()  # tfmoe.extras imports these


def test_the_public_names():
    (block,) = type_checking(ast.parse(pathlib.Path(tfmoe.__file__).read_text(encoding="utf-8")))
    for_checkers = {alias.name for node in block.body for alias in node.names}
    assert for_checkers == set(tfmoe._HOME) == set(tfmoe.__all__) - {"__version__"}
    assert set(tfmoe.__all__) <= set(dir(tfmoe))
    for name in tfmoe.__all__:
        assert getattr(tfmoe, name)
    assert tfmoe.MoE.__module__ == "tfmoe.layers.moe"
    with pytest.raises(AttributeError, match=r"module 'tfmoe' has no attribute 'Moe'"):
        _ = tfmoe.Moe


IMPORTS = """
import json, sys
loaded = {}
for statement in ("import tfmoe", "import keras, tensorflow", "import tfmoe.layers",
                  "import tfmoe.data_pipelines.corpora, tfmoe.inspection.page"):
    exec(statement)
    loaded[statement] = sorted({name.partition(".")[0] for name in sys.modules})
print(json.dumps(loaded))
"""


def test_imports_load_little():
    run = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, check=True, cwd=ROOT)
    nothing, keras, layers, most = map(set, json.loads(run.stdout).values())
    assert not {"tensorflow", "keras", "numpy"} & nothing
    # The layers add no package to those of Keras, so importing them takes hardly longer.
    assert "keras" in keras and not {"pydantic", "yaml", "typer"} & keras
    assert layers == keras
    # Keras imports matplotlib and pandas, and pandas imports pyarrow, if they are installed.
    assert not (EXTRAS.keys() - {"matplotlib", "pandas", "pyarrow"}) & most


def test_versions_agree():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert str(citation["version"]) == tfmoe.__version__
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## {re.escape(tfmoe.__version__)}\b", changes, re.MULTILINE)


def test_pythons_agree():
    allowed = SpecifierSet(PROJECT["requires-python"])
    assert [f"3.{minor}" for minor in range(20) if f"3.{minor}" in allowed] == PYTHONS
    shown = [each.rpartition(" ")[2] for each in PROJECT["classifiers"] if "Python :: 3." in each]
    assert shown == PYTHONS


WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))


def test_the_workflow_has_least_rights_and_pinned_actions():
    assert WORKFLOW["permissions"] == {"contents": "read"}
    jobs = WORKFLOW["jobs"]
    assert all("permissions" not in job and job["timeout-minutes"] <= 60 for job in jobs.values())
    steps = [step for job in jobs.values() for step in job["steps"]]
    actions = [step["uses"] for step in steps if "uses" in step]
    assert len(actions) > 5
    assert [
        each for each in actions if not re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", each)
    ] == []


def test_the_workflow_runs_what_there_is():
    jobs = WORKFLOW["jobs"]
    for job in ("test", "wheel"):
        assert jobs[job]["strategy"]["matrix"]["python"] == PYTHONS
    commands = "\n".join(step.get("run", "") for job in jobs.values() for step in job["steps"])
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    called = {
        word
        for line in re.findall(r"^make (.*)", commands, re.MULTILINE)
        for word in line.split()
        if "=" not in word
    }
    assert called - {"docs"} <= targets and {"demo", "test-wheel"} <= called
    assert "make test" in (ROOT / ".ci/run").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml")))
def test_issue_forms_can_be_read(path):
    form = yaml.safe_load(path.read_text(encoding="utf-8"))
    if path.name == "config.yml":
        assert form == {"blank_issues_enabled": False}
        return
    assert {"name", "description", "body"} <= form.keys()
    ids = [part["id"] for part in form["body"]]
    assert len(set(ids)) == len(ids)
    assert all(part["type"] == "textarea" and part["attributes"]["label"] for part in form["body"])
