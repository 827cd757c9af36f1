"""A `.keras` file in a process that has not imported the layers: the guide shows the error of
Keras, and the import that mends it.
"""

import re
import subprocess
import sys
from pathlib import Path

import keras

from tfmoe.layers import MoE

GUIDE = Path(__file__).parents[2] / "docs/guides/your_own_keras_model.md"
PROGRAM = """
import sys

import keras

try:
    keras.models.load_model(sys.argv[1])
except TypeError as error:
    print(error)
{imports}
print(keras.models.load_model(sys.argv[1]).get_layer("moe").num_experts, "experts")
"""


def test_error_and_import_of_the_guide(tmp_path):
    path = tmp_path / "model.keras"
    keras.Sequential([keras.Input([4]), MoE(5, 8, name="moe")]).save(path)
    text = GUIDE.read_text(encoding="utf-8")
    section = text[text.index("## Save") :]
    (error,) = re.findall(r"```text\nTypeError: …(.*?) …\n```", section, re.DOTALL)
    imports = "\n".join(re.findall(r"^import tfmoe\.\w+", section, re.MULTILINE))
    command = [sys.executable, "-c", PROGRAM.format(imports=imports), str(path)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert " ".join(error.split()) in " ".join(output.split())
    assert output.endswith("5 experts\n")
