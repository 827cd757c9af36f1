"""Replaces methods of Keras' classes where Keras has no hook for a strategy."""

import functools


def replace(owner, name, applies, replacement):
    """Replaces a method of a class once. After a reload of the calling module the new version is
    installed.

    Args:
        owner: the class.
        name: the method's name.
        applies: function of an object; where it returns false, Keras' method runs.
        replacement: function of the object, Keras' method bound to it, and the arguments.
    """
    current = getattr(owner, name)
    if getattr(current, "replacement", None) is replacement:
        return
    original = getattr(current, "original", current)

    @functools.wraps(original)
    def method(self, *args, **options):
        if not applies(self):
            return original(self, *args, **options)
        return replacement(self, functools.partial(original, self), *args, **options)

    method.original, method.replacement = original, replacement
    setattr(owner, name, method)
