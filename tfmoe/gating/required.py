"""What a class of gates must implement."""

MEANINGS = {
    "route": "def route(self, inputs, training=False, groups=None), which returns "
    "self.routing_of_tokens(experts, weights, groups)",
    "num_selected": "the number of experts per token, a class attribute or a property",
}


def required(method):
    """A decorator of a method of the base class that subclasses must implement."""
    method.is_required = True
    return method


def check_is_implemented(cls):
    """Raises a `TypeError` if a class of gates lacks what a mixture needs.

    Args:
        cls: the class; its `METRICS` must be a tuple.
    """
    for name, meaning in MEANINGS.items():
        member = getattr(cls, name)
        if hasattr(getattr(member, "fget", member), "is_required"):
            raise TypeError(f"{cls.__name__} must implement {name}: {meaning}")
    if isinstance(cls.METRICS, str):
        raise TypeError(
            f"{cls.__name__}.METRICS must be a tuple of names, ({cls.METRICS!r},), got "
            f"{cls.METRICS!r}"
        )
