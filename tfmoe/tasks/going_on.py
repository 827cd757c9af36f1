"""How a run that was stopped goes on. Imports nothing of tfmoe: it is asked when a command is
interrupted, maybe in the middle of its imports.
"""

import pathlib
import shlex


def resume_command(run_dir):
    """The command that goes on with a run, whatever it was begun with."""
    folder = shlex.quote(str(run_dir))
    config = shlex.quote(str(pathlib.Path(run_dir) / "config.yaml"))
    return f"tfmoe train {config} --run-dir {folder} --resume"


def where_to_go_on(run_dir):
    """What to tell whoever stopped a run."""
    if not (pathlib.Path(run_dir) / "config.yaml").exists():
        return "before training began"
    return f"training; to go on with it: {resume_command(run_dir)}"
