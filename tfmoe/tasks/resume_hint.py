"""How to resume a stopped run. Imports nothing of tfmoe: a command may be interrupted in the middle
of its imports.
"""

import os
import pathlib
import shlex


def resume_command(run_dir):
    """The command that resumes a run, whatever command started it."""
    folder = shlex.quote(str(run_dir))
    config = shlex.quote(str(pathlib.Path(run_dir) / "config.yaml"))
    return f"tfmoe train {config} --run-dir {folder} --resume"


def where_to_go_on(run_dir: str | os.PathLike) -> str:
    """Says when a run was stopped, and the command that resumes it: the end of a sentence that
    begins with "stopped".
    """
    if not (pathlib.Path(run_dir) / "config.yaml").exists():
        return "before training began"
    return f"training; resume with: {resume_command(run_dir)}"
