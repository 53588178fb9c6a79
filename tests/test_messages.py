"""The wire format: what is accepted, what is set aside and why."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

import messages

IDS = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._:+-]{0,127}\Z")
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(st.tuples(IDS, st.lists(NUMBERS)), min_size=1))
def test_a_batch_comes_back_as_it_was_encoded(samples):
    ids, bodies = [list(column) for column in zip(*samples)]
    message = messages.decode(messages.encode(ids, bodies, is_batch=True), messages.finite_numbers)
    assert message == (ids, bodies, {}, True)


def test_one_sample_is_an_object_and_a_batch_of_one_is_an_array():
    assert messages.encode(["a"], [1.5], is_batch=False) == b'{"id":"a","body":1.5}'
    assert messages.encode(["a"], [1.5], is_batch=True) == b'[{"id":"a","body":1.5}]'


@pytest.mark.parametrize(
    ("given_id", "used"),
    [
        ('"a.b:c+d-e_F9"', "a.b:c+d-e_F9"),
        ("7", "7"),
        ("7.0", "7"),
        ("-3", "-3"),
        ("1700000000.25", "1700000000.25"),
        ("1e3", "1000"),
        ("1e300", "1e+300"),
        ("123456789012345678901234567890", "123456789012345678901234567890"),
        ('"' + "x" * 128 + '"', "x" * 128),
    ],
)
def test_an_id_is_text_or_a_number_as_its_shortest_text(given_id, used):
    message = messages.decode(b'{"id":%s,"body":1}' % given_id.encode(), messages.finite_number)
    assert message.faults == {}
    assert message.ids == [used]


MALFORMED = [
    b"",
    b" ",
    b"hello",
    b'{"id":"a","body":1',
    b"\xff\xfe",
    '{"id":"a","body":1}'.encode("utf-16"),
    b'\xef\xbb\xbf{"id":"a","body":1}',
    b"null",
    b"[]",
    b"[[]]",
    b"7",
    b"[" * 100_000,
    b'{"id":"a"}',
    b'{"body":1}',
    b'{"id":"a","body":1,"more":1}',
    b'{"id":"a","body":1,"body":1}',
    b'{"id":"","body":1}',
    b'{"id":"%s","body":1}' % (b"x" * 129),
    b'{"id":"a b","body":1}',
    b'{"id":"a,b","body":1}',
    b'{"id":"a\\n","body":1}',
    b'{"id":"a\\u0000","body":1}',
    b'{"id":"=a","body":1}',
    '{"id":"é","body":1}'.encode(),
    b'{"id":null,"body":1}',
    b'{"id":true,"body":1}',
    b'{"id":NaN,"body":1}',
    b'{"id":1e999,"body":1}',
    b'{"id":%s,"body":1}' % (b"1" * 129),
    b'{"id":["a"],"body":1}',
]


@pytest.mark.parametrize("raw", MALFORMED, ids=lambda raw: repr(raw[:40]))
def test_a_malformed_message_is_set_aside_whole_with_a_reason(raw):
    message = messages.decode(raw, messages.finite_number)
    assert message.ids == []
    [(piece, reason)] = messages.offending(raw, message, message.faults)
    assert piece == raw
    assert reason


@pytest.mark.parametrize("body", ["NaN", "Infinity", "1e999", "1" * 5000, "true", '"1"', "null", "[1]", "{}"])
def test_a_label_that_is_no_finite_number_is_set_aside(body):
    assert messages.decode(b'{"id":"a","body":%s}' % body.encode(), messages.finite_number).faults


@pytest.mark.parametrize(
    "body", ["1", "null", '"12"', "[true]", '["1"]', "[NaN]", "[1,-Infinity]", "[[1]]", "[null]", "{}", "[1e999]"]
)
def test_features_that_are_no_list_of_finite_numbers_are_set_aside(body):
    assert messages.decode(b'{"id":"a","body":%s}' % body.encode(), messages.finite_numbers).faults


def test_of_a_batch_only_the_bad_items_are_set_aside_each_byte_for_byte():
    bad = [b'{"id": "b",  "body": NaN}', '{"id":"ü","body":2}'.encode(), b'"}],["']
    raw = b' [ {"id":"a","body":1} , ' + bad[0] + b" ,\n" + bad[1] + b"," + bad[2] + b',{"id":"c","body":3}] '
    message = messages.decode(raw, messages.finite_number)
    assert (message.ids, message.bodies) == (["a", "c"], [1.0, 3.0])
    assert message.positions() == [0, 4]
    pieces = list(messages.offending(raw, message, message.faults))
    assert [piece for piece, _ in pieces] == bad
    assert [reason.split(":")[0] for _, reason in pieces] == [f"item {n} of the batch" for n in (2, 3, 4)]


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["id", "body", "x"]) | st.text(), inner),
)


@given(JSON.map(lambda value: json.dumps(value).encode()) | st.binary())
def test_whatever_comes_is_either_a_good_sample_or_has_a_reason(raw):
    message = messages.decode(raw, messages.finite_number)
    assert message.ids or message.faults
    for sample_id, value in zip(message.ids, message.bodies):
        assert 0 < len(sample_id) <= 128
        assert math.isfinite(value)
    for piece, reason in messages.offending(raw, message, message.faults):
        assert piece in raw
        assert reason


@pytest.mark.parametrize(
    "reply_to", [None, "", "y_true.1", "y_pred.0", "y_pred.100", "y_pred.1.1", "features", "y_pred.x"]
)
def test_an_answer_goes_to_a_shard_of_y_pred_and_nowhere_else(reply_to):
    assert messages.answer_queue(reply_to) == "y_pred"
    assert [messages.answer_queue(messages.shard("y_pred", n)) for n in (0, 7, 99)] == [
        "y_pred",
        "y_pred.7",
        "y_pred.99",
    ]
