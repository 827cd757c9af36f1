"""Replaces methods of Keras' classes, of which it has no other hook for a strategy."""

import functools


def replace(owner, name, applies, replacement):
    """Replaces a method of a class, once; after a reload of the module, by the new version.

    Args:
        owner: the class.
        name: of the method.
        applies: function of an object: whether the replacement runs, or else Keras' own method.
        replacement: function of the object, Keras' method bound to it, and the arguments.
    """
    found = getattr(owner, name)
    if getattr(found, "replacement", None) is replacement:
        return
    original = getattr(found, "of_keras", found)

    @functools.wraps(original)
    def method(self, *args, **options):
        if not applies(self):
            return original(self, *args, **options)
        return replacement(self, functools.partial(original, self), *args, **options)

    method.of_keras, method.replacement = original, replacement
    setattr(owner, name, method)
