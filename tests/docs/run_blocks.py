"""Runs the blocks of a page in the current folder: `python run_blocks.py BLOCKS.json`.

Blocks of Python share their names, those of sh are scripts of bash. A block of another language
whose first line is a comment with a file's name is written to that file.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

NAME = re.compile(r"# ([\w./-]+\.\w+)\n")


def run(page, blocks):
    """Runs blocks in order.

    Args:
        page: its name, for tracebacks.
        blocks: list of `{"language", "text", "line"}`.

    Returns:
        `{name: value}`, what the blocks of Python defined.

    Raises:
        Exception: what a block raises.
    """
    names = {"__name__": "__main__"}
    for block in blocks:
        language, text, line = block["language"], block["text"], block["line"]
        place = f"{page}:{line}"
        if language == "python":
            exec(compile("\n" * (line - 1) + text, place, "exec"), names)
        elif language == "sh":
            done = subprocess.run(["bash", "-euo", "pipefail", "-c", text])
            if done.returncode:
                raise RuntimeError(f"{place}: exit status {done.returncode}")
        elif NAME.match(text):
            path = Path(NAME.match(text).group(1))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    return names


if __name__ == "__main__":
    content = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    run(content["page"], content["blocks"])
