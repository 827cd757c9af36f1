"""Copies gates: every mixture has a separate copy of its gate."""

import inspect

# Large, so that the seeds of copies do not coincide with other seeds of the user.
SEED_DISTANCE = 7_368_787


def copy_of(gate, **changes):
    """Creates an unbuilt gate with the settings of another gate.

    The first copy has the gate's `seed`, if it has one. Every further copy has a different seed, so
    that two layers with the same gate draw different noise.

    Args:
        gate: a `tfmoe.gating.Gate`.
        **changes: constructor arguments that differ.

    Raises:
        ValueError: the gate's `get_config` lacks an argument of its constructor.
    """
    config = {**gate.get_config(), **changes}
    missing = [name for name in constructor_arguments(type(gate)) if name not in config]
    if missing:
        raise ValueError(
            f"{type(gate).__name__}.get_config must return every argument of the constructor, "
            f"because a mixture copies its gate; {', '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} missing"
        )
    num_copies = gate.__dict__.get("_num_copies", 0)
    gate.__dict__["_num_copies"] = num_copies + 1
    if config.get("seed") is not None:
        config["seed"] += num_copies * SEED_DISTANCE
    # Keras' `from_config` would convert a ValueError to a TypeError.
    return type(gate)(**config)


def constructor_arguments(cls):
    """The names of the constructor arguments of a class, without `*args` and `**kwargs`."""
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
    return [parameter.name for parameter in parameters if parameter.kind not in variadic]
