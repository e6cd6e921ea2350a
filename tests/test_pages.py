"""Pages are filled from templates that let no text become markup and no value be forgotten."""

import pytest
from jinja2 import UndefinedError

from shapefirst.drawing.pages import fill


def test_text_is_escaped():
    page = fill("drawing/page.html", title="""<script>'my' "file" & {{ 7 * 6 }}</script> 奶酪""")
    assert "<title>&lt;script&gt;&#39;my&#39; &#34;file&#34; &amp; {{ 7 * 6 }}&lt;/script&gt; 奶酪</title>" in page


def test_a_page_is_one_file_that_loads_nothing():
    page = fill("drawing/page.html", title="")
    assert page.startswith("<!doctype html>")
    assert page.endswith("</html>\n")
    assert "default-src 'none'" in page


def test_a_value_that_is_missing_is_an_error():
    with pytest.raises(UndefinedError, match="title"):
        fill("drawing/page.html")
