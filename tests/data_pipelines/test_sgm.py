import gzip

import pytest

from tfmoe.data_pipelines import TextError
from tfmoe.data_pipelines.sgm import is_sgm, read_sgm

SGM = """<?xml version="1.0" encoding="UTF-8"?>
<srcset setid="newstest2014" srclang="any">
<doc sysid="ref" docid="1" genre="news" origlang="en">
<hl>
<seg id="1">Tom &amp; Jerry &lt;b&gt; &quot;x&quot; &#233;</seg>
</hl>
<p><SEG id="2"> 猫が
  座った </SEG><seg id='3'></seg></p>
</doc>
</srcset>
"""


def test_read_sgm(tmp_path):
    (tmp_path / "a.sgm").write_text(SGM)
    (tmp_path / "b.sgm.gz").write_bytes(gzip.compress(SGM.encode()))
    expected = ['Tom & Jerry <b> "x" é'.encode(), "猫が 座った".encode(), b""]
    for name in ("a.sgm", "b.sgm.gz"):
        assert is_sgm(tmp_path / name)
        assert read_sgm(tmp_path / name) == expected
    assert not is_sgm("a.sgm.txt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<seg id='1'>x</seg><seg id='2'>y", r"/a\.sgm: segment 2 has no end </seg>"),
        (b"x\n", r"/a\.sgm: no <seg> in the file"),
        (b"<seg>\nab\xff", r"/a\.sgm:2:3: byte 0xff is not valid UTF-8"),
    ],
)
def test_read_sgm_errors(tmp_path, content, message):
    (tmp_path / "a.sgm").write_bytes(content)
    with pytest.raises(TextError, match=message):
        read_sgm(tmp_path / "a.sgm")
