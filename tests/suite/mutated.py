"""Suite files with seeded mistakes: of a person's hand, of an editor, of a disk, and of one who means harm."""

import random
import re

from paths import ROOT

# What stands in place of a value: what YAML's constructors choke on, what is no value of any field, what is huge.
VALUES = (
    "2026-13-45", "2026-11-29", "2026-11-29 25:00:00", "1:30", "0x10", "010", "1_000", "1e400", "-1e3", ".inf", "-.inf",
    ".nan", "0", "-1", "1", "3", "64", "1k", "4k", "9999m", "1K", "true", "no", "null", "~", "''", '""', "[]", "{}",
    "[[]]", "[1, 2]", "{a: 1}", "!!int x", "!!float x", "!!bool maybe", "!!timestamp x", "!!binary x", "!!set {a, b}",
    "!!str 3", "!!map x", "!!null x", "!!python/name:os.system", "!x y", "=", "<<", "*a", "&a [x]", "*defaults",
    "|", ">",
    "9" * 5000, "x" * 3000, "2147483648", "1.5", "bf16", "e4m3", "normal", "../x.safetensors", "a.safetensors", "head",
    "'\\ud800'", '"\\ud800"', '"\\x1b[31m"', '"\\0"', "\u2028", "é", "1 / 0", "2 +", "seqlen", "-batch",
    "batch * 1e308",
)  # fmt: skip
SIGNS = ":{}[],&*!|>%@#\"'`\t -?\n\r\x00\x07\x1b\u2028\ufeff\xa0\x85.0kéx"
BOMB = "bomb: &b [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"bomb{level}: &b{level} [{', '.join([f'*b{level - 1 or str()}'] * 9)}]\n" for level in range(1, 12)
)
ENDLESS = "endless: &endless [*endless]\n"
MADE_UP = """name: made
defaults: &defaults {dtype: bf16, batch: 1}
groups:
  - name: one
    axes:
      <<: *defaults
      seqlen: [64, 1k]
      "num_heads, num_heads_kv": [[4, 1], [8, null]]
      head_dim: [64, 128]
    derive: {seed: seqlen / 64, head_dim_v: head_dim}
    exclude:
      - {when: {seqlen: 1k, head_dim: 64}, reason: too long}
    timing: {min_samples: 3, timeout_s: 60}
    checks: {probes: all, factors: {rmse: 2}}
timing: {regime: burst}
only: {dtype: [bf16, fp16]}
"""


def originals():
    """The suites that ship, and one that has every key."""
    return [MADE_UP, *(path.read_text() for path in sorted((ROOT / "suites").glob("*.yaml")))]


def mutated(seed, texts):
    """The bytes of the file of this seed: one of the texts, with one to four mistakes."""
    draw = random.Random(seed)
    text = draw.choice(texts)
    for _ in range(draw.choice((1, 1, 2, 4))):
        text = draw.choice(MUTATIONS)(draw, text, texts)
    data = text.encode("utf-8", "surrogatepass")
    if draw.random() < 0.03:
        place = draw.randrange(len(data) + 1)
        data = data[:place] + bytes(draw.randrange(256) for _ in range(3)) + data[place:]
    return data


def _lines(change):
    def mutate(draw, text, texts):
        lines = text.split("\n")
        return "\n".join(change(draw, lines, draw.randrange(len(lines))))

    return mutate


def _value(draw, text, texts):
    """Another value behind a key, in a list or as a whole."""
    places = list(re.finditer(r"(?<=[:\[,] )[^\s,\]}:][^,\]}\n:]*|(?<=\[)[\w.]+", text))
    if not places:
        return text
    place = draw.choice(places)
    return text[: place.start()] + draw.choice(VALUES) + text[place.end() :]


def _key(draw, text, texts):
    """A key misspelt, or one that stands elsewhere."""
    keys = list(re.finditer(r"[\w]+(?=:)", text))
    if not keys:
        return text
    key = draw.choice(keys)
    other = draw.choice([draw.choice(keys)[0], key[0][:-1], key[0] + "s", draw.choice(VALUES)])
    return text[: key.start()] + other + text[key.end() :]


def _sign(draw, text, texts):
    place = draw.randrange(len(text) + 1)
    return text[:place] + draw.choice(SIGNS) + text[place + draw.choice((0, 1)) :]


def _number(draw, text, texts):
    numbers = list(re.finditer(r"\d+", text))
    if not numbers:
        return text
    number = draw.choice(numbers)
    other = draw.choice(
        ("0", "-" + number[0], number[0] + "0", number[0] * 9, number[0] + ".5", str(2**31), str(2**64))
    )
    return text[: number.start()] + other + text[number.end() :]


MUTATIONS = (
    _value, _value, _value, _key, _sign, _sign, _number,
    _lines(lambda draw, lines, place: lines[:place] + lines[place + 1 :]),
    _lines(lambda draw, lines, place: lines[: place + 1] + lines[place:]),
    _lines(lambda draw, lines, place: [*lines[:place], " " * draw.randint(1, 4) + lines[place], *lines[place + 1 :]]),
    _lines(lambda draw, lines, place: [*lines[:place], lines[place].strip(), *lines[place + 1 :]]),
    _lines(lambda draw, lines, place: lines[:place] + draw.sample(lines[place:], len(lines) - place)),
    lambda draw, text, texts: text[: draw.randrange(len(text) + 1)],
    lambda draw, text, texts: text + draw.choice((BOMB, ENDLESS, "\n---\nb: 1\n", "\n...\n", "[" * 3000)),
    lambda draw, text, texts: draw.choice((BOMB, ENDLESS, "%YAML 3.0\n---\n", "\ufeff", "&a ")) + text,
    lambda draw, text, texts: text[: draw.randrange(len(text) + 1)] + draw.choice(texts)[draw.randrange(200) :],
)  # fmt: skip
