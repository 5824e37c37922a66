# SPDX-License-Identifier: GPL-2.0-only
import json
import random

import pytest

from harness.guest.wire import LINE_LIMIT, REASON_LIMIT, TEXT_LIMIT, Decoder, Message, cut, encode


def decoded(*chunks: bytes) -> tuple[list[Message], int]:
    """The messages in a stream that comes in these pieces, and the lines of rubbish."""
    decoder = Decoder()
    messages = [message for chunk in chunks for message in decoder.feed(chunk)]
    return messages, decoder.rubbish


class TestDecoder:
    def test_one_message(self) -> None:
        assert decoded(encode({"event": "done"})) == ([{"event": "done"}], 0)

    def test_message_that_comes_byte_by_byte(self) -> None:
        stream = encode({"a": "ä\n"}) + encode({"b": 1})
        pieces = (stream[n : n + 1] for n in range(len(stream)))
        assert decoded(*pieces) == ([{"a": "ä\n"}, {"b": 1}], 0)

    def test_unfinished_message_is_none_yet(self) -> None:
        assert decoded(b'\n{"event": "done"}') == ([], 0)

    @pytest.mark.parametrize(
        "garbage",
        [
            b"login: ",
            b'{"event": "finish", ',
            b"[1, 2]",
            b'"text"',
            b"{" * 100_000,
            b'{"a": ' + b"[" * 100_000,
            b'{"a": 1}}',
            b' {"a": 1}',
            b"\xff\xfe\x00",
            b'{"a": "\xff"}',
            b"x" * (LINE_LIMIT + 1),
        ],
        ids=lambda garbage: repr(garbage[:12]),
    )
    def test_garbage_before_a_message_ends_with_it(self, garbage: bytes) -> None:
        assert decoded(garbage + encode({"event": "done"})) == ([{"event": "done"}], 1)

    def test_empty_lines_are_no_garbage(self) -> None:
        assert decoded(b"\n\n \r\n", encode({"a": 1})) == ([{"a": 1}], 0)

    def test_flood_without_a_line_feed_is_not_kept(self) -> None:
        decoder = Decoder()
        for _ in range(100):
            assert list(decoder.feed(b"x" * (1 << 18))) == []
            assert len(decoder._buffer) <= LINE_LIMIT + (1 << 18)
        # The end of the flood is one more line of rubbish, and the message is whole.
        assert list(decoder.feed(encode({"event": "done"}))) == [{"event": "done"}]

    @pytest.mark.parametrize("seed", range(20))
    def test_messages_survive_any_garbage_between_them(self, seed: int) -> None:
        chance = random.Random(seed)  # noqa: S311 - for tests
        messages: list[Message] = [{"n": n, "text": "{}\n"} for n in range(20)]
        stream = b""
        for message in messages:
            stream += chance.randbytes(chance.randrange(50)) + encode(message)
        cuts = sorted(chance.randrange(len(stream)) for _ in range(10))
        pieces = (stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True))
        found, _ = decoded(*pieces)
        assert [message for message in found if "n" in message] == messages


class TestCut:
    def test_short_text_stays(self) -> None:
        assert cut("x" * TEXT_LIMIT) == "x" * TEXT_LIMIT

    def test_both_ends_of_long_text_stay(self) -> None:
        short = cut("<" + "x" * 2 * TEXT_LIMIT + ">")
        assert (short[0], short[-1]) == ("<", ">")
        assert f"[... {TEXT_LIMIT + 2} characters left out ...]" in short
        assert len(short) < TEXT_LIMIT + 100

    def test_message_of_the_longest_texts_is_no_rubbish(self) -> None:
        widest = "\U0001f600"
        message: Message = {
            "detail": cut(widest * 10 * TEXT_LIMIT),
            "reason": widest * REASON_LIMIT,
            "observations": {"x": "y" * TEXT_LIMIT},
            "splats": ["z" * 1024] * 50,
        }
        assert len(json.dumps(message)) < LINE_LIMIT
        assert decoded(encode(message)) == ([message], 0)
