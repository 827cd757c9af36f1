"""Settings of old configurations that constructors refuse."""

import warnings


def without_load_loss(settings):
    """`settings` with `load_weight` 0, and a warning if it was positive: for a configuration whose
    load loss has no gradient.
    """
    weight = settings.get("load_weight")
    if not isinstance(weight, (int, float)) or weight <= 0:
        return settings
    warnings.warn(
        f"load_weight={weight} of a gate without noise is read as 0: without noise the load is a "
        "count, so its loss had no gradient and trained nothing",
        stacklevel=3,
    )
    return {**settings, "load_weight": 0.0}
