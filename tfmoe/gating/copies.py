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
        ValueError: the gate's `get_config` lacks an argument of its constructor, or the constructor
            does not accept or pass on an argument.
    """
    config = {**gate.get_config(), **changes}
    check_is_complete(gate, config)
    num_copies = gate.__dict__.get("_num_copies", 0)
    if config.get("seed") is not None:
        config["seed"] += num_copies * SEED_DISTANCE
    check_accepts(type(gate), config)
    # Keras' `from_config` would convert a ValueError to a TypeError.
    copy = type(gate)(**config)
    for name in {"num_experts", "num_groups"} & changes.keys():
        if getattr(copy, name) != changes[name]:
            raise ValueError(
                f"{type(gate).__name__}.__init__ must pass its **kwargs on, "
                f"super().__init__(**kwargs): a mixture sets {name}={changes[name]}, and the gate "
                f"has {getattr(copy, name)}"
            )
    gate.__dict__["_num_copies"] = num_copies + 1
    return copy


def check_is_complete(gate, config):
    """Raises a `ValueError` if a configuration lacks an argument of the gate's constructor."""
    missing = [name for name in constructor_arguments(type(gate)) if name not in config]
    if missing:
        added = ", ".join(f'"{name}": self.{name}' for name in missing)
        raise ValueError(
            f"{type(gate).__name__}.get_config must return every argument of the constructor, "
            f"because a mixture copies its gate; {', '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} missing: "
            f"return {{**super().get_config(), {added}}}"
        )


def check_accepts(cls, config):
    """Raises a `ValueError` if the constructor of a class does not accept a configuration."""
    try:
        inspect.signature(cls).bind(**config)
    except TypeError as error:
        raise ValueError(
            f"{cls.__name__}.__init__ must accept what get_config returns, and the arguments that "
            "a mixture sets (num_experts, num_groups, name, dtype): def __init__(self, …, "
            f"**kwargs) with super().__init__(**kwargs); {error}"
        ) from error


def constructor_arguments(cls):
    """The names of the constructor arguments of a class, without `*args` and `**kwargs`."""
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    parameters = list(inspect.signature(cls.__init__).parameters.values())[1:]
    return [parameter.name for parameter in parameters if parameter.kind not in variadic]
