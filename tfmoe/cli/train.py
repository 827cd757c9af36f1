"""`tfmoe train`: trains a model."""

import pathlib

from tfmoe import tasks
from tfmoe.cli import arguments
from tfmoe.cli.exit_status import resumable
from tfmoe.config.shipped import find_config
from tfmoe.tasks.resume_hint import where_to_go_on


def train(
    config: arguments.Config,
    set_: arguments.Set = None,
    run_dir: arguments.RunDir = None,
    resume: arguments.Resume = False,
):
    """Train a model, evaluate it, and store everything in a folder.

    The folder gets config.yaml (with all defaults), vocabulary.txt (vocabulary.model for subwords),
    checkpoints/ (the best weights, and the state to resume from), history.csv (one row per epoch),
    logs/ (for TensorBoard) and result.json (perplexity on the test text; for translation also
    BLEU).

    A run can be killed at any time. --resume resumes it from the last epoch, or from the last
    checkpoint with training.checkpoint_every_steps=N, and ends with the same weights as an
    uninterrupted run. A resumed run may change training.epochs, model.decoding and distribute,
    nothing else.

    distribute.name=local trains on all GPUs of this machine, with experts sharded over them.
    distribute.name=cluster trains on the workers that TF_CONFIG lists; run this command on each.

    \b
    Examples:
      tfmoe train demo/language_model
      tfmoe train demo/language_model --set training.seed=1 --run-dir runs/seed-1
      tfmoe train demo/language_model --run-dir runs/seed-1 --resume
      tfmoe train demo/language_model --set data.name=text \\
        --set "data.train=my/train-*.txt" --set data.valid=my/valid.txt --set data.test=my/test.txt
    """
    run_dir = run_dir or pathlib.Path("runs") / find_config(config).stem
    with resumable(lambda: f"stopped {where_to_go_on(run_dir)}"):
        summary = tasks.train_config(config, set_ or (), run_dir, resume)
    if summary:
        print(f"\n{summary}\nThe run is in {run_dir}")
