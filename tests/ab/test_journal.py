"""What an A/B stored is checked before it is gone on with, and holds no secret."""

import json

import pytest
from fakes.report_runs import ok

from attnbench.ab.journal import COMPARISON, JOURNAL, Journal, begin, begun
from attnbench.records.store import StoreError, Unreadable

GOOD = ok("naive", 1e-3)
PAIR = f'{{"against":"head","base":{GOOD.to_json()},"other":{GOOD.to_json()}}}'


def test_pairs_come_back(tmp_path):
    journal = Journal(tmp_path)
    journal.append("head", GOOD, GOOD)
    assert list(journal.pairs()) == [("head", GOOD, GOOD)]
    journal.close()


@pytest.mark.parametrize(
    "line",
    [
        "7", "{}", "[" * 100_000, "\udcff", PAIR.replace('"head"', '"tail"'), PAIR.replace('"head"', "[]"),
        PAIR.replace('"backend":"naive"', '"backend":5'), '{"against":"head","base":[],"other":{}}',
    ],
)  # fmt: skip
def test_a_line_that_is_no_pair_is_named_and_nothing_goes_on_from_it(tmp_path, line):
    text = f"{PAIR}\n{line}\n".encode(errors="surrogateescape")
    (tmp_path / JOURNAL).write_bytes(text)
    journal = Journal(tmp_path)
    pairs = journal.pairs()
    assert next(pairs)[0] == "head"
    with pytest.raises(Unreadable, match=rf"{JOURNAL}:2: .*; it cannot be continued, choose another --out") as caught:
        next(pairs)
    assert "\n" not in str(caught.value) and caught.value.status == 3
    journal.close()
    assert (tmp_path / JOURNAL).read_bytes() == text


@pytest.mark.parametrize(
    "text", ["7", "{", '{"suite": 5, "base": {}, "head": {}}', '{"suite": "", "base": {"device": "x"}, "head": {}}']
)
def test_what_does_not_say_what_was_compared_is_refused(tmp_path, text):
    (tmp_path / COMPARISON).write_text(text)
    with pytest.raises(Unreadable, match=f"{COMPARISON} does not say what was compared"):
        begun(tmp_path)
    with pytest.raises(StoreError, match="no `attnbench ab` was begun there"):
        begun(tmp_path / "nowhere")


def test_a_journal_is_not_written_through_a_link(tmp_path):
    (tmp_path / "victim").write_text("precious")
    (tmp_path / JOURNAL).symlink_to(tmp_path / "victim")
    with pytest.raises(StoreError, match="is a link, which nothing is written through"):
        Journal(tmp_path)
    assert (tmp_path / "victim").read_text() == "precious"


def test_no_secret_is_stored(tmp_path):
    begin(tmp_path, [{"plugins": ["git+https://me:s3cr3t@host/k.py"]}, {"revision": {"build": "TOKEN=s3cr3t x"}}], "")
    assert "s3cr3t" not in (tmp_path / COMPARISON).read_text()
    assert json.loads((tmp_path / COMPARISON).read_text())["head"]["revision"]["build"].startswith("TOKEN=<redacted ")
