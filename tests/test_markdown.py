"""Names and texts in markdown: what would be read as markup is escaped, and nothing else is touched."""

import pytest

from attnbench.markdown import code, details, image, label, plain, table


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("relative RMSE 0.1, limit 0.2 at head 1", "relative RMSE 0.1, limit 0.2 at head 1"),
        ("<script>a & b</script>", "&lt;script&gt;a &amp; b&lt;/script&gt;"),
        ("a_b *c* [d](e) `f` g\\h", "a\\_b \\*c\\* \\[d\\](e) \\`f\\` g\\\\h"),
        ("$x$ costs 5 $", "&#36;x$ costs 5 $"),
        ("~~gone~~", "&#126;&#126;gone&#126;&#126;"),
        ("see https://x.y and www.x.y, @me", "see https:&#47;&#47;x.y and www&#46;x.y, &#64;me"),
        ("# head", "&#35; head"),
        ("- item", "&#45; item"),
        ("-1.5 % and 3.11.7", "-1.5 % and 3.11.7"),
        ("1. first", "1&#46; first"),
        ("two\nlines", "two lines"),
    ],
)
def test_plain(text, shown):
    assert plain(text) == shown


@pytest.mark.parametrize(
    ("name", "as_code", "as_label"),
    [
        ("hopper[ws]", "`hopper[ws]`", "hopper[ws]"),
        ("cpu_flash (A)", "`cpu_flash (A)`", "cpu_flash (A)"),
        ("a`b", "<code>a\\`b</code>", "a\\`b"),
        ("<b>", "<code>&lt;b&gt;</code>", "&lt;b&gt;"),
        ("_x_", "`_x_`", "\\_x\\_"),
        ("x[a](b)", "`x[a](b)`", "x\\[a\\](b)"),
        ("$a$", "`$a$`", "&#36;a$"),
    ],
)
def test_names(name, as_code, as_label):
    assert (code(name), label(name)) == (as_code, as_label)


def test_pieces_hold_their_text(tmp_path):
    assert table(["a|b"], [["c|d\ne"]]).splitlines()[0::2] == ["| a\\|b   |", "| c\\|d e |"]
    assert "<summary>a &lt;/summary&gt;</summary>" in details("a </summary>", "body")
    assert image("x](y) hopper[ws]", tmp_path / "a b" / "c).svg") == "![x\\](y) hopper\\[ws\\]](a%20b/c%29.svg)"
    assert image("hopper[ws], naive", tmp_path / "a" / "c.svg") == "![hopper[ws], naive](a/c.svg)"
