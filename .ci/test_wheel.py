"""Installs the wheel into an empty environment, and uses it in another folder.

    python .ci/test_wheel.py                                  the core alone
    python .ci/test_wheel.py --extras text,plots,dev tests/ops tests/layers
    python .ci/test_wheel.py --python python3.13 --sdist

Every run imports all modules, runs the README's first script and trains demo/grammars for 20 steps.
Given paths, it runs their tests (which needs the extra dev) against what is installed.
"""

import argparse
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
MODULES = """
import importlib, pathlib, pkgutil, sys, tfmoe
here = pathlib.Path(tfmoe.__file__)
assert here.is_relative_to(sys.prefix) and "site-packages" in here.parts, here
names = [module.name for module in pkgutil.walk_packages(tfmoe.__path__, "tfmoe.")]
for name in names:
    if not name.endswith("__main__"):
        importlib.import_module(name)
assert (here.parent / "py.typed").exists()
print(f"tfmoe {tfmoe.__version__} of {here.parent}: {len(names)} modules imported")
"""
# A pytest plugin, loaded before any test: checks that the tests import the installed package.
INSTALLED = "import sys, tfmoe\nassert tfmoe.__file__.startswith(sys.prefix), tfmoe.__file__\n"
TRAIN = (
    "train demo/grammars --run-dir run --set training.epochs=1 --set training.steps_per_epoch=20"
)


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--python", default=sys.executable, help="Python of the new environment")
    parser.add_argument("--extras", default="", help="such as text,plots")
    parser.add_argument("--sdist", action="store_true", help="install the source distribution")
    parser.add_argument("tests", nargs="*", help="paths of tests, from the root of the repository")
    return parser.parse_args()


def run(*command, cwd, **options):
    """Runs a command without variables such as PYTHONPATH, which could name the checkout."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    environment |= {"TF_CPP_MIN_LOG_LEVEL": "3", "TFMOE_CACHE": str(cwd)}
    return subprocess.run(
        [str(argument) for argument in command], cwd=cwd, env=environment, check=True, **options
    )


def build(folder):
    """Builds the source distribution and from it the wheel, with this Python's setuptools.

    Returns:
        The paths of both.
    """
    code = f"from setuptools import build_meta as b; b.build_sdist({str(folder)!r})"
    run(sys.executable, "-c", code, cwd=ROOT, stdout=subprocess.DEVNULL)
    (sdist,) = folder.glob("*.tar.gz")
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", folder]
    run(sys.executable, "-m", "pip", "wheel", *options, sdist, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    return sdist, wheel


def create_environment(python, package, extras, folder):
    """Creates a virtual environment with only one package; returns its `bin`."""
    run(python, "-m", "venv", folder, cwd=ROOT)
    programs = folder / ("Scripts" if sys.platform == "win32" else "bin")
    requirement = f"{package}[{extras}]" if extras else package
    run(programs / "python", "-m", "pip", "install", "--quiet", requirement, cwd=folder)
    return programs


def measure(programs, folder):
    """Prints the installed size, and the times of imports and `tfmoe --help`."""
    (site,) = folder.glob("**/site-packages")
    size = sum(path.lstat().st_size for path in site.rglob("*") if "pip" not in path.parts)
    print(f"installed: {size / 2**20:,.0f} MiB")
    commands = {
        "import tfmoe": [programs / "python", "-c", "import tfmoe"],
        "from tfmoe import MoE": [programs / "python", "-c", "from tfmoe import MoE"],
        "tfmoe --help": [programs / "tfmoe", "--help"],
    }
    for name, command in commands.items():
        seconds = []
        for _ in range(4):  # the first run compiles bytecode
            begin = time.perf_counter()
            run(*command, cwd=folder, capture_output=True)
            seconds.append(time.perf_counter() - begin)
        print(f"{name}: {min(seconds[1:]):.2f} s")


def main():
    options = arguments()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name).resolve()
        for subfolder in ("dist", "work"):
            (folder / subfolder).mkdir()
        sdist, wheel = build(folder / "dist")
        print(f"{wheel.name}: {wheel.stat().st_size / 1000:.0f} kB")
        package = sdist if options.sdist else wheel
        programs = create_environment(options.python, package, options.extras, folder / "venv")
        python, work = programs / "python", folder / "work"
        run(python, "-c", MODULES, cwd=work)
        measure(programs, folder / "venv")
        readme = (ROOT / "README.md").read_text(encoding="utf-8")
        run(
            python,
            "-c",
            re.search(r"^```python\n(.*?)^```", readme, re.M | re.S)[1],
            cwd=work,
            stdout=subprocess.DEVNULL,
        )
        run(programs / "tfmoe", *TRAIN.split(), cwd=work)
        if options.tests:
            (work / "installed.py").write_text(INSTALLED, encoding="utf-8")
            paths = [ROOT / path for path in options.tests]
            flags = ["-p", "installed", "-p", "no:cacheprovider", "-m", "not slow", "-n", "2"]
            config = ["--rootdir", ROOT, "-c", ROOT / "pyproject.toml"]
            run(python, "-m", "pytest", *flags, *config, *paths, cwd=work)


if __name__ == "__main__":
    main()
