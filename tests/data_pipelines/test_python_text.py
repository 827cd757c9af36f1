import itertools

import pytest

from tfmoe.data_pipelines.python_text import python_sentences, source_sentences

SOURCE = '''
"""A docstring."""

LIMIT = 1234  # a comment


def firstItem(items, default_value=None):
    """Another one."""
    if not items["key"]:
        raise ValueError("nothing in it")
    return items[0]
'''


def test_source_sentences():
    found = [" ".join(words) for words in source_sentences(SOURCE)]
    assert found == [
        "def first item ( items , default _ value = None ) : ; if not items [ ' key ' ] : ;"
        ' raise value error ( "" ) ; return items [ 0 ] ;'
    ]  # LIMIT = 0 alone is too short


def test_f_strings_are_strings():
    source = 'a = f"short" + f"{b!r:>{width}} and {f"{c}" }" + f"" + rf\'two {d} words\'\n'
    source = source.replace('f"{c}"', "f'{c}'")  # which Python 3.11 can read
    (words,) = source_sentences(source)
    assert " ".join(words) == """a = ' short ' + "" + "" + "" ;"""


# Python 3.11 reads an f-string as one token, later ones as many: the words must be the same. Each
# line is source and the words of what follows `a = b +`.
F_STRINGS = {
    """f'plain'""": "' plain '",
    """F"plain" 'too'""": "' plain ' ' too '",
    """rf'{x}' fr"\\d{{3}}" Rb'bytes'""": '"" "" \' bytes \'',
    """f"{x!r:>{width}.{digits}f} of {y['key']:,}" + z""": '"" + z',
    """f"{{literal}}" + f'{x=}' + f"{'nested' if y else f'{z}'}\"""": '"" + "" + ""',
    """f'''three
    lines { x } of "text"
    ''' + c""": '"" + c',
    """f(f"{x:{f'{y}'}}", g=f"")""": 'f ( "" , g = "" )',
    """(f"first "  # a comment
       f"second {x[1:2]} third")""": '( "" "" )',
}


@pytest.mark.parametrize("source", F_STRINGS)
def test_f_strings_on_every_python(source):
    (words,) = source_sentences(f"a = b + {source}\nc = d + e + f\n")
    assert " ".join(words) == f"a = b + {F_STRINGS[source]} ; c = d + e + f ;"


def test_long_lines_and_errors():
    table = "x = [" + "1, " * 100 + "]\n"
    good = "a = f(b, c) + g(d)\n"
    words = [*"a=f(b,c)+g(d);"]
    assert list(source_sentences(table + good)) == [words]
    assert list(source_sentences(good + good + "def (")) == [words * 2]
    assert all(len(words) <= 50 for words in source_sentences(good * 20))


def test_sentences_of_this_installation():
    found = [" ".join(words) for words in itertools.islice(python_sentences([]), 1000)]
    assert len(set(found)) == 1000
    assert any("import" in words for words in found)
