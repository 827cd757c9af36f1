"""Whether and where a training run goes on."""

from tfmoe.config.loader import load_config
from tfmoe.config.problems import key_of
from tfmoe.tasks.going_on import resume_command


def check_folder(config, run, resume):
    """Checks that a run can begin in the folder, or that the one in it can go on."""
    if not run.begun():
        return
    if not resume:
        raise FileExistsError(
            f"{run.path} has a run already: --resume goes on with it, --run-dir names another "
            "folder"
        )
    run.check()
    was, now = load_config(run.config).model_dump(), config.model_dump()
    changed = [
        key
        for key in differences(was, now)
        if key != "training.epochs" and not key.startswith(("model.decoding.", "distribute."))
    ]
    if changed:
        raise ValueError(
            f"{run.path} was begun with another config, different in {', '.join(changed)}. Resume "
            f"with the same settings ({resume_command(run.path)}), or begin another run"
        )


def check_text(run, text):
    """Checks that the text of a run is what it was, by its counts.

    Args:
        run: a `RunDirectory`.
        text: what `run.json` would now hold of the text.
    """
    changed = [key for key in differences(run.read_facts()["text"], text) if ".files" not in key]
    if changed:
        raise ValueError(
            f"the text has changed since {run.path} began: {', '.join(changed)} differ from "
            f"{run.facts}; put the text back, or begin another run"
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
    return [found for key, *values in pairs for found in differences(*values, (*path, key))]


def restore(state, config, run, steps):
    """Restores a run's state, and says where it goes on.

    Raises:
        ValueError: if the state is damaged or lost, or further than the config wants to go.
    """
    history = run.read_history()  # a broken one is better found now than after an epoch
    if not state.restore():
        if len(history) > 1:  # the first row is written just before the first state
            raise ValueError(
                f"{run.checkpoints} has no state to resume from, though {run.history.name} has "
                "finished epochs: put the folder back, or begin another run"
            )
        print(f"{run.path} has no saved state yet: training begins\n", flush=True)
        return
    epoch, wanted = int(state.epoch), config.training.epochs
    part = state.step - epoch * steps
    if wanted < epoch + bool(part):
        raise ValueError(
            f"training.epochs is {wanted}, but {run.path} has gone further: {epoch} epochs are "
            f"finished{', and one is begun' if part else ''}"
        )
    where = f"step {part} of {steps} in epoch {epoch + 1}" if part else f"epoch {epoch}"
    print(f"resuming {run.path} after {where}\n", flush=True)
