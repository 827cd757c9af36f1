import shutil

import pytest
import tensorflow as tf

from tfmoe.inspection.summary_files import read_scalars


def write(folder, values):
    writer = tf.summary.create_file_writer(str(folder))
    with writer.as_default():
        for step, value in values.items():
            tf.summary.scalar("moe/noise", value, step)
            tf.summary.histogram("moe/load", [1.0, 2.0], step)
            tf.summary.text("moe/contexts", "text", step)
    writer.close()


def test_what_was_written(tmp_path):
    write(tmp_path, {0: 0.5, 1: 0.25})
    assert read_scalars(tmp_path) == {0: {"moe/noise": 0.5}, 1: {"moe/noise": 0.25}}


def test_a_resumed_run(tmp_path):
    """Its second file has an epoch again, and is cut short."""
    write(tmp_path / "b", {1: 0.125, 2: 0.0})
    write(tmp_path, {0: 0.5, 1: 0.25})
    (file,) = (tmp_path / "b").iterdir()
    shutil.copy(file, tmp_path / "events.out.tfevents.9999999999.later")
    with open(tmp_path / "events.out.tfevents.9999999999.later", "r+b") as later:
        later.truncate(later.seek(0, 2) - 3)
    read = read_scalars(tmp_path)
    assert {step: values["moe/noise"] for step, values in read.items()} == {0: 0.5, 1: 0.125, 2: 0}


@pytest.mark.parametrize("content", [b"", b"no event file"])
def test_no_summaries(tmp_path, content):
    assert read_scalars(tmp_path / "nowhere") == {}
    (tmp_path / "events.out.tfevents.1").write_bytes(content)
    assert read_scalars(tmp_path) == {}
