"""`tfmoe train`: from a config to a run's folder."""

import pathlib

from tfmoe import tasks
from tfmoe.cli import arguments
from tfmoe.cli.endings import resumable
from tfmoe.config.shipped import find_config
from tfmoe.tasks.going_on import where_to_go_on


def train(
    config: arguments.Config,
    set_: arguments.Set = None,
    run_dir: arguments.RunDir = None,
    resume: arguments.Resume = False,
):
    """Train a model, evaluate it, and keep everything in a folder.

    The folder gets config.yaml (resolved), vocabulary.txt (or .model, of subwords), checkpoints/
    (the best weights and the state to resume from), history.csv (a row per epoch), logs/ (for
    TensorBoard) and result.json (perplexity on the test text; of a translation model also BLEU).

    Killed at any moment, --resume goes on from the last finished epoch, or from the last of every
    N steps with training.checkpoint_every_steps=N, and ends with the weights of a run that was
    never killed. A resumed run may have more training.epochs, another model.decoding and another
    distribute; nothing else may differ.

    distribute.name=local trains on all GPUs of this machine, experts sharded over them;
    distribute.name=cluster on the workers that TF_CONFIG names, of which each runs this command.

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
        print(f"\n{summary}\nEverything is in {run_dir}")
