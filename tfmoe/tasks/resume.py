"""Resumes a training run: checks that it can be resumed, and restores its state."""

from tfmoe.config.loader import load_config
from tfmoe.config.problems import key_of
from tfmoe.data_pipelines.prepared.order import TRAINING_ORDER
from tfmoe.tasks.resume_hint import resume_command


def check_folder(config, run, resume):
    """Checks that a run can start in the folder, or that the run in it can be resumed."""
    if not run.begun():
        return
    if not resume:
        raise FileExistsError(
            f"{run.path} already has a run: resume it with --resume, or choose another folder with "
            "--run-dir"
        )
    run.check()
    old, new = load_config(run.config).model_dump(), config.model_dump()
    changed = [
        key
        for key in differences(old, new)
        if key != "training.epochs" and not key.startswith(("model.decoding.", "distribute."))
    ]
    if changed:
        raise ValueError(
            f"{run.path} was started with another config, which differs in {', '.join(changed)}. "
            f"Resume with the same settings ({resume_command(run.path)}), or start another run"
        )


def check_text(run, text):
    """Checks that the statistics of a run's text are unchanged.

    Args:
        run: a `RunDirectory`.
        text: the present statistics of the text, as `run.json` stores them.
    """
    known = run.read_facts()["text"]
    text = {  # runs of version 0.1.0 do not have the content
        part: {key: value for key, value in facts.items() if key in known.get(part, facts)}
        for part, facts in text.items()
    }
    changed = [key for key in differences(known, text) if ".files" not in key]
    if changed:
        raise ValueError(
            f"the text has changed since {run.path} was started: {', '.join(changed)} differ from "
            f"{run.facts}; restore the text, or start another run"
        )


def differences(a, b, path=()):
    """The keys in which two trees differ, as `["model.blocks[1].units", …]`."""
    if isinstance(a, dict) and isinstance(b, dict):
        keys = [*a, *(key for key in b if key not in a)]
        pairs = [(key, a.get(key), b.get(key)) for key in keys]
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        pairs = [(index, *items) for index, items in enumerate(zip(a, b, strict=True))]
    else:
        return [] if a == b else [key_of(path)]
    return [inner for key, *values in pairs for inner in differences(*values, (*path, key))]


def restore(state, config, run, steps):
    """Restores a run's state, and prints where training resumes.

    Args:
        state: the `TrainingState`.
        config: the `Config`.
        run: the `RunDirectory`.
        steps: batches per epoch.

    Raises:
        ValueError: if the state is damaged or lost, or has more epochs than the config.
    """
    history = run.read_history()  # fails now, not after an epoch, if the file is damaged
    if not state.restore():
        if len(history) > 1:  # the first row is written just before the first state
            raise ValueError(
                f"{run.checkpoints} has no state to resume from, but {run.history.name} has "
                "finished epochs: restore the folder, or start another run"
            )
        print(f"{run.path} has no saved state yet: training starts\n", flush=True)
        return
    epoch, epochs = int(state.epoch), config.training.epochs
    steps_done = state.step - epoch * steps
    if epochs < epoch + bool(steps_done):
        raise ValueError(
            f"training.epochs is {epochs}, but {run.path} has finished {epoch} epochs"
            f"{' and started the next' if steps_done else ''}"
        )
    where = f"step {steps_done} of {steps} in epoch {epoch + 1}" if steps_done else f"epoch {epoch}"
    print(f"resuming {run.path} after {where}\n", flush=True)
    order = run.read_facts().get("training_order")
    if order != TRAINING_ORDER:
        print(
            f"{run.path} was started by a version that read the training text in another order: "
            f"training goes on with batch {state.step + 1:,} of the new order\n",
            flush=True,
        )
    if order is None:
        print(
            "Gradients of tables (embeddings, sampled softmaxes) are now summed by word before the "
            "optimizer sees them: Adam takes smaller steps for frequent words than that version\n",
            flush=True,
        )
