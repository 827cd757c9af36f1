"""A folder that another process trains in, and a folder on a full disk."""

import os
import shutil

from tfmoe.training.run_lock import only_one_training


def test_another_process_trains_in_the_folder(refused, finished, tmp_path):
    run = shutil.copytree(finished.path, tmp_path / "run")
    with only_one_training(run):
        for train in (["train", "--resume"], ["train"], ["launch", "--resume"]):
            err = refused(*train, "tiny.yaml", "--run-dir", run)
            assert f"{run}: process {os.getpid()} on " in err and "trains there now" in err


def test_a_full_disk(command, full_disk, tmp_path):
    """The state of the third step has 2,996 bytes."""
    run = tmp_path / "run"
    train = ["train", "tiny.yaml", "--run-dir", run]
    with full_disk(2500):
        status, _, err = command(*train)
    assert status == 1 and err.count("\n") == 1
    assert err.startswith(f"tfmoe: {run}/checkpoints/unfinished-last-3/worker-0.data-")
    assert "everything saved before is kept; stopped training; resume with: tfmoe tr" in err
    names = {path.name for path in run.rglob("*") if "tfevents" not in path.name}
    assert names == {
        "config.yaml", "run.json", "vocabulary.txt", "checkpoints", "logs", "train", "experts",
    }  # fmt: skip
