import importlib

from tfmoe.distribute import keras_methods


def test_a_method_is_replaced_for_some_objects():
    class Base:
        def scaled(self, x, factor=1):
            """Doc."""
            return x * factor

    def replacement(self, original, x, factor=1):
        return -original(x, factor=factor)

    def negates(self):
        return getattr(self, "negates", False)

    keras_methods.replace(Base, "scaled", negates, replacement)
    plain, negated = Base(), Base()
    negated.negates = True
    assert (plain.scaled(3, factor=2), negated.scaled(3, factor=2)) == (6, -6)
    assert Base.scaled.__doc__ == "Doc."


def test_a_method_is_replaced_once_and_by_the_newest_version():
    class Base:
        def number(self):
            return 1

    original = Base.number

    def version(step):
        return lambda self, original: original() + step

    first, second = version(10), version(100)
    keras_methods.replace(Base, "number", bool, first)
    before = Base.number
    keras_methods.replace(Base, "number", bool, first)
    assert Base.number is before
    importlib.reload(keras_methods).replace(Base, "number", bool, second)
    assert Base().number() == 101
    assert Base.number.original is original
