"""Text from elsewhere: what a terminal, a parser or a CI system would obey is shown instead."""

import pytest

from attnbench.printable import log_text, one_line, printable
from attnbench.redaction import redacted, redacted_command, redacted_facts


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, é, ∞ and 漢字", "plain, é, ∞ and 漢字"),
        ("two\nlines\tand a tab", "two\nlines\tand a tab"),
        ("\x1b[1;31mred\x1b[0m \x1b]0;title\x07end", "red end"),
        ("nul \x00 bell \x07 del \x7f", "nul \\x00 bell \\x07 del \\x7f"),
        ("an escape alone \x1b(B", "an escape alone \\x1b(B"),
        ("caf\udce9.so", "caf\\xe9.so"),  # a byte of a file name that is no UTF-8
        ("half a pair \ud83d", "half a pair \\ud83d"),
        ("turned \u202e round, \u2028 broken", "turned \\u202e round, \\u2028 broken"),
        ("dos\r\nline, over\rwritten", "dos\nline, over\\x0dwritten"),
    ],
)
def test_what_is_no_letter_is_an_escape(text, shown):
    assert printable(text) == shown
    assert printable(shown) == shown
    assert one_line(text) == shown.replace("\n", "\\n").replace("\t", "\\t")
    shown.encode()


def test_no_line_of_a_log_is_a_command():
    """actions/runner trims blanks ahead of `::`, and finds `##[` anywhere in a line."""
    text = "::stop-commands::t\n   ::error::x\nstd::sort\n\t::a\nsee ##[add-mask]x"
    assert log_text(text) == "\\::stop-commands::t\n   \\::error::x\nstd::sort\n\t\\::a\nsee ##\\[add-mask]x"
    assert log_text("\x1b[31mred\x1b[0m") == "\x1b[31mred\x1b[0m"


SECRETS = [
    "pip install git+https://me:s3cr3t@host/x",
    "401 for https://s3cr3t@example.com/a?b=1",
    "Authorization: Bearer s3cr3t",
    "HF_TOKEN=s3cr3t make",
    "tool --api-key s3cr3t x",
    'cannot log in with {"password": "s3cr3t"}',
    "github_pat_s3cr3ts3cr3ts3cr3t is expired",
]


@pytest.mark.parametrize("text", SECRETS)
def test_a_secret_is_a_hash_that_tells_equal_ones(text):
    shown = redacted(text)
    assert "s3cr3t" not in shown and "<redacted " in shown
    assert redacted(text) == shown and redacted(shown) == shown
    assert redacted(text.replace("s3cr3t", "0ther0")) != shown
    assert redacted_facts({"a": [text, 1, None, {"b": text}]}) == {"a": [shown, 1, None, {"b": shown}]}


@pytest.mark.parametrize(
    "text",
    [
        "no kernel image is available", "key bf16-d64-h4-b1-q256-k256-full-normal.0", "tokens == 16384",
        "max_tokens=128",
        "https://docs.example.com/a@b", "KeyError: 'x'", "passed with 0.1", "the token count is 5", "make -j4",
    ],
)  # fmt: skip
def test_what_is_no_secret_stays(text):
    assert redacted(text) == text


def test_a_build_command_keeps_what_it_runs_and_not_what_it_sets():
    shown = redacted_command("CXX=g++ A='b c' make -j && pip install --token t .")
    assert shown.endswith(" .") and " make -j && pip install --token <redacted " in shown
    assert "g++" not in shown and "b c" not in shown and shown.count("<redacted ") == 3


def test_long_texts_take_no_time():
    import time

    started = time.process_time()
    for text in ("token" * 50_000, "a" * 200_000 + "token", "a.b-" * 50_000 + "://", "://" * 50_000, "\x1b]" * 50_000):
        redacted(text)
        redacted_command(text)
        printable(text)
    assert time.process_time() - started < 5
