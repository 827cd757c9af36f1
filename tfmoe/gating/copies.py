"""How a mixture makes its own copy of a gate."""

import inspect

# Far apart: the seeds of users do not meet those of copies.
SEED_DISTANCE = 7_368_787


def copy_of(gate, **changes):
    """A new, unbuilt gate with the settings of a gate.

    The first copy draws with the gate's own `seed`, if it has one. Every further copy gets a seed
    of its own, so that two layers with the same gate draw different noise.

    Args:
        gate: a `tfmoe.gating.Gate`.
        **changes: arguments of the constructor that differ.

    Raises:
        ValueError: if the gate's `get_config` leaves out an argument of its constructor.
    """
    config = {**gate.get_config(), **changes}
    missing = [name for name in constructor_arguments(type(gate)) if name not in config]
    if missing:
        raise ValueError(
            f"{type(gate).__name__}.get_config must return every argument of the constructor, so "
            f"that a mixture can make its own copy of the gate; {', '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} missing"
        )
    copies = gate.__dict__.get("_num_copies", 0)
    gate.__dict__["_num_copies"] = copies + 1
    if config.get("seed") is not None:
        config["seed"] += copies * SEED_DISTANCE
    # Not `from_config`: Keras turns the ValueErrors that it meets into TypeErrors.
    return type(gate)(**config)


def constructor_arguments(cls):
    """The names of the arguments of a class's constructor, without `*args` and `**kwargs`."""
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = inspect.signature(cls.__init__).parameters.values()
    return [each.name for each in list(parameters)[1:] if each.kind not in variadic]
