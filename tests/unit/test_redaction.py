"""What is taken out of JSON is gone from it, and all else is byte for byte as it was."""

from __future__ import annotations

import json
import random
import re
import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_journal.service.pattern_cost import problem_of
from agent_journal.service.redaction import OVERLAP_CHARS, PIECE_CHARS, Redaction
from agent_journal.service.secrets_known import SECRETS, SIGNS

# Made up, in the forms that the providers document; joined, so that nobody's scanner
# takes this file for a leak.
WORD = "aB3dE6gH9jK2mN5pQ8sT1vW4yZ7bC0dF3gH6jK9mN2pQ5sT8vW1yZ4bC7dE0fG3"
KEY = "-----" + "BEGIN RSA PRIVATE KEY-----\nMIIEow" + WORD + "\n-----" + "END RSA PRIVATE KEY-----"
EXAMPLES = {
    "aws-access-key": ["AKIA" + "IOSFODNN7EXAMPLE", "ASIA" + "Q3EGVZ2T4NKL5RWX"],
    "openai-key": [
        "sk-" + "proj-" + WORD,
        "sk-" + "svcacct-" + WORD,
        "sk-" + WORD[:20] + "T3BlbkFJ" + WORD[20:40],
    ],
    "anthropic-key": ["sk-" + "ant-api03-" + WORD + "-_AA", "sk-" + "ant-admin01-" + WORD],
    "github-token": ["ghp" + "_" + WORD[:36], "github" + "_pat_" + WORD, "ghs" + "_" + WORD[:40]],
    "google-key": ["AIza" + WORD[:35], "ya29" + "." + WORD, "GOCSPX" + "-" + WORD[:28]],
    "slack-token": [
        "xoxb" + "-123456789012-" + WORD[:24],
        "xapp" + "-1-" + WORD[:30],
        "hooks.slack.com" + "/services/T0AB/B0CD/" + WORD[:24],
    ],
    "stripe-key": ["sk" + "_live_" + WORD[:24], "rk" + "_test_" + WORD[:30], "whsec" + "_" + WORD],
    "private-key": [KEY, KEY.replace("RSA ", "").partition("\n-----END")[0]],
    "jwt": ["eyJhbGciOiJIUzI1NiJ9" + "." + "eyJzdWIiOiIxMjM0NTY3ODkwIn0" + "." + WORD[:43]],
    "bearer-token": ["Bearer " + WORD, "bearer " + WORD[:40] + "=="],
}
ALL = [(kind, secret) for kind, secrets in EXAMPLES.items() for secret in secrets]

plain = Redaction()
full = Redaction([re.compile(r"corp-[0-9]{6}")], ["password", "api_key"])

texts = st.text(max_size=30)
filler = st.text(st.sampled_from(' ,.;:/"\\\n\té😀\u2028'), max_size=8)
secrets = st.sampled_from([secret for _, secret in ALL])
# Beside a secret stands nothing that it could be a part of, or go on with.
with_secret = st.builds(lambda a, s, b: f"{a} {s} {b}", filler, secrets, filler)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
    | with_secret,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            texts | st.sampled_from(["password", "Api-Key", "API_KEY"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)


def dumped(value: object, chance: random.Random) -> bytes:
    """Write JSON in one of the ways in which it may be written."""
    text = json.dumps(
        value,
        ensure_ascii=chance.random() < 0.5,
        indent=chance.choice([None, None, 1]),
        separators=chance.choice([None, (",", ":"), (" , ", " : ")]),
    )
    if chance.random() < 0.3:  # letters of strings may be escaped as well
        text = re.sub(
            r'(?<=[A-Za-z_-])[a-zA-Z](?=[^"\\]*")',
            lambda found: f"\\u{ord(found[0]):04x}" if chance.random() < 0.1 else found[0],
            text,
        )
        try:
            json.loads(text)
        except ValueError:
            text = json.dumps(value)
    return text.encode("utf-8", "surrogatepass")


def strings_of(value: Any) -> list[str]:
    """Return every string in a value, the names of members too."""
    match value:
        case str():
            return [value]
        case list():
            return [text for one in value for text in strings_of(one)]
        case dict():
            return [text for pair in value.items() for one in pair for text in strings_of(one)]
        case _:
            return []


class TestBuiltIn:
    @pytest.mark.parametrize(("kind", "secret"), ALL, ids=lambda value: str(value)[:12])
    def test_a_secret_of_each_provider_is_found(self, kind: str, secret: str) -> None:
        """At either end of a string, within one, quoted in one, and behind what it is told by."""
        for text in (
            secret,
            f"key={secret}",
            f'{{"k": "{secret}"}}',
            f"({secret})",
            f"é {secret}\n",
        ):
            raw = json.dumps({"Noted": {"text": text, "n": 1.0}}, ensure_ascii=False).encode()
            found = plain.of_json(raw)
            marked = f"[redacted:{kind}]"
            expected = f"{secret[:7]}{marked}" if kind == "bearer-token" else marked
            read = json.loads(found)["Noted"]["text"]
            assert read.startswith(text[: text.index(secret)] + expected), read
            if kind != "private-key":
                assert read == text.replace(secret, expected)
            assert found.endswith(b', "n": 1.0}}')
            assert plain.of_text(text) == read

    @pytest.mark.parametrize(("kind", "secret"), ALL, ids=lambda value: str(value)[:12])
    def test_what_is_escaped_is_hidden_from_nobody(self, kind: str, secret: str) -> None:
        raw = b'{"A":"%b"}' % "".join(f"\\u{ord(letter):04X}" for letter in secret).encode()
        assert f"[redacted:{kind}]".encode() in plain.of_json(raw)

    @pytest.mark.parametrize(
        "text",
        [
            "AKIA is how such keys begin", "AKIAIOSFODNN7EXAMPLEX", "xAKIA" + "IOSFODNN7EXAMPLE",
            "task-project-management-and-other-long-words", "sk-learn", "risk-adjusted-returns",
            "sk-proj-short", "ghp_short", "the bearer of-bad-news-and-other-things-altogether",
            "Bearer token", "bearer responsibilities and duties", "AIzaShort", "xoxo-hugs",
            "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
            "-----BEGIN PUBLIC KEY-----", "eyJhbGciOi.not.ajwt", "a PRIVATE KEY is secret",
            "https://hooks.slack.com/help", "pk_live_" + WORD[:24], "desk_live_" + "x" * 30,
            "550e8400-e29b-41d4-a716-446655440000", "d41d8cd98f00b204e9800998ecf8427e",
        ],
    )  # fmt: skip
    def test_what_only_looks_a_little_like_one_stays(self, text: str) -> None:
        raw = json.dumps({"A": text}).encode()
        assert plain.of_json(raw) is raw

    def test_every_pattern_is_looked_for_where_it_could_match(self) -> None:
        """A sign is in the bytes of all that a pattern finds; else it would be passed over."""
        for _, secret in ALL:
            raw = json.dumps(secret).encode()
            assert any(sign.search(raw) for sign in SIGNS), secret
        assert {secret.kind for secret in SECRETS} == {*EXAMPLES}


class TestProperties:
    @given(values, st.randoms(use_true_random=False))
    def test_what_comes_out_is_json_and_holds_no_secret(
        self, value: object, chance: random.Random
    ) -> None:
        raw = dumped({"Noted": value}, chance)
        found = full.of_json(raw)
        for text in strings_of(json.loads(found)):
            assert full.of_text(text) == text
            assert not [secret for _, secret in ALL if secret in text]
        if b"[redacted:" not in found:
            assert found == raw

    @given(values, st.randoms(use_true_random=False))
    def test_redacting_twice_changes_nothing_more(
        self, value: object, chance: random.Random
    ) -> None:
        found = full.of_json(dumped({"Noted": value}, chance))
        assert full.of_json(found) == found

    @given(values, st.randoms(use_true_random=False))
    def test_everything_outside_of_markers_is_as_it_was(
        self, value: object, chance: random.Random
    ) -> None:
        """The pieces between the markers stand in what came, in their order, to both ends."""
        raw = dumped({"Noted": value}, chance)
        found = full.of_json(raw)
        first, *rest = re.split(rb'"?\[redacted:[a-z0-9_-]+\]', found)
        if not rest:
            assert found == raw
            return
        assert raw.startswith(first)
        at = len(first)
        for piece in rest:
            kept = piece.removeprefix(b'"')  # of a marker that is a whole value
            at = raw.index(kept, at) + len(kept)
        assert raw.endswith(rest[-1].removeprefix(b'"'))

    @given(st.text(string.ascii_letters + string.digits + " .,_-/+\\\"'{}[]:\n", max_size=200))
    def test_text_without_a_secret_is_the_same_object(self, text: str) -> None:
        raw = json.dumps({"A": text}).encode()
        found = plain.of_json(raw)
        assert found is raw or b"[redacted:" in found


class TestKeys:
    def test_the_value_under_a_name_goes_whatever_it_is(self) -> None:
        raw = (
            b'{"A" : {"password":"x\\"y","deep":[{"Api-Key": {"a":[1,"}]"]}, "n":1.0}],'
            b'"PASSWORD" :12e5,"api_key":null,"password ":"stays","text":"password"}}'
        )
        assert full.of_json(raw) == (
            b'{"A" : {"password":"[redacted:password]","deep":[{"Api-Key": "[redacted:api_key]", '
            b'"n":1.0}],"PASSWORD" :"[redacted:password]","api_key":null,"password ":"stays",'
            b'"text":"password"}}'
        )

    def test_a_name_that_is_escaped_is_the_same_name(self) -> None:
        assert full.of_json(b'{"A":{"p\\u0061ssword":"x"}}') == (
            b'{"A":{"p\\u0061ssword":"[redacted:password]"}}'
        )


class TestOwnPatterns:
    def test_what_an_own_pattern_finds_is_named_by_its_place(self) -> None:
        assert full.of_json(b'{"A":["x corp-123456, corp-12"]}') == (
            b'{"A":["x [redacted:pattern-1], corp-12"]}'
        )

    @pytest.mark.parametrize("at", [0, PIECE_CHARS - 5, OVERLAP_CHARS, 3 * PIECE_CHARS - 11])
    def test_a_long_text_is_searched_piece_by_piece(self, at: int) -> None:
        text = "x" * at + " corp-123456 " + "y" * 5000
        assert full.of_text(text) == text.replace("corp-123456", "[redacted:pattern-1]")

    @pytest.mark.parametrize(
        "pattern",
        [r"corp-[a-z0-9]{8,40}", r"\d{3}-\d{2}-\d{4}", r"(?i)secret-\w+", r"(?:ab){1,3}x",
         r"\b[A-Z]{2}[0-9]{18}\b", r"(?<![0-9])[0-9]{16}(?![0-9])", r"a|bc|def[0-9]+"],
    )  # fmt: skip
    def test_ordinary_patterns_are_taken(self, pattern: str) -> None:
        assert problem_of(pattern) is None

    @pytest.mark.parametrize(
        ("pattern", "reason"),
        [
            ("(a+)+b", "repeats what repeats"),
            ("(a|aa)+b", "repeats alternatives"),
            (r"(?:x?){20}y", "repeats alternatives"),
            ("a*b*c*d", "give its repeats bounds"),
            (r"(\w)\1{3}", "refers back"),
            ("a*", "nothing at all"),
            ("(", "no regular expression"),
            ("[", "no regular expression"),
            ("(?P<a>b)(?(a)c|d)", "depends on a group"),
            ("a{1,70}b{1,70}c", "give its repeats bounds"),
        ],
    )
    def test_patterns_that_may_take_for_ever_are_refused(self, pattern: str, reason: str) -> None:
        assert reason in (problem_of(pattern) or "")
