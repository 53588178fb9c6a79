"""The wire format: what is accepted, what is set aside and why."""

import json
import math
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parts import messages

IDS = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._:+-]{0,127}\Z")
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)


@given(st.lists(st.tuples(IDS, st.lists(NUMBERS, min_size=1)), min_size=1))
def test_a_batch_comes_back_as_it_was_encoded(samples):
    ids, bodies = [list(column) for column in zip(*samples)]
    message = messages.decode(messages.encode(ids, bodies, is_batch=True), messages.FEATURES)
    assert (message.ids, message.bodies, message.faults, message.is_batch) == (ids, bodies, {}, True)


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
        ("-2.5", "-2.5"),
        ("-0.0", "0"),
        ("5e0", "5"),
        ("1e22", "1e+22"),
        ("10000000000000000000000", "1e+22"),
        ("100000000000000000000000", "1e+23"),
        ("9007199254740993", "9007199254740993"),
        ("123456789012345678901234567890", "123456789012345678901234567890"),
        ('"' + "x" * 128 + '"', "x" * 128),
    ],
)
def test_an_id_is_text_or_a_number_as_its_shortest_text(given_id, used):
    message = messages.decode(b'{"id":%s,"body":1}' % given_id.encode(), messages.VALUES)
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
    b'[{"id":"a","body":1},{"id":"b","body":NaN}]',
    b'[{"id":"a","body":1},{"id":"b","body":1}] x',
    b'{"id":1e999,"body":1}',
    b'{"id":%s,"body":1}' % (b"1" * 129),
    b'{"id":["a"],"body":1}',
]


@pytest.mark.parametrize("raw", MALFORMED, ids=lambda raw: repr(raw[:40]))
def test_a_malformed_message_is_set_aside_whole_with_a_reason(raw):
    message = messages.decode(raw, messages.VALUES)
    assert message.ids == []
    [(piece, reason)] = messages.offending(raw, message, message.faults)
    assert piece == raw
    assert reason


@pytest.mark.parametrize("body", ["NaN", "Infinity", "1e999", "1" * 5000, "true", '"1"', "null", "[1]", "{}"])
def test_a_label_that_is_no_finite_number_is_set_aside(body):
    assert messages.decode(b'{"id":"a","body":%s}' % body.encode(), messages.VALUES).faults


@pytest.mark.parametrize(
    "body", ["[]", "1", "null", '"12"', "[true]", '["1"]', "[NaN]", "[1,-Infinity]", "[[1]]", "[null]", "{}", "[1e999]"]
)
def test_features_that_are_no_list_of_finite_numbers_are_set_aside(body):
    assert messages.decode(b'{"id":"a","body":%s}' % body.encode(), messages.FEATURES).faults


def test_of_a_batch_only_the_bad_items_are_set_aside_each_byte_for_byte():
    bad = [b'{"id": "b",  "body": null}', '{"id":"ü","body":2}'.encode(), b'"}],["']
    raw = b' [ {"id":"a","body":1} , ' + bad[0] + b" ,\n" + bad[1] + b"," + bad[2] + b',{"id":"c","body":3}] '
    message = messages.decode(raw, messages.VALUES)
    assert (message.ids, message.bodies) == (["a", "c"], [1.0, 3.0])
    assert message.positions == [0, 4]
    pieces = messages.offending(raw, message, message.faults)
    assert [piece for piece, _ in pieces] == bad
    assert [reason.split(":")[0] for _, reason in pieces] == [f"item {n} of the batch" for n in (2, 3, 4)]


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["id", "body", "x"]) | st.text(), inner),
)


@given(JSON.map(lambda value: json.dumps(value).encode()) | st.binary())
def test_whatever_comes_is_either_a_good_sample_or_has_a_reason(raw):
    message = messages.decode(raw, messages.VALUES)
    assert message.ids or message.faults
    for sample_id, value in zip(message.ids, message.bodies):
        assert 0 < len(sample_id) <= 128
        assert math.isfinite(value)
    for piece, reason in messages.offending(raw, message, message.faults):
        assert piece in raw
        assert reason


@given(st.integers() | st.floats(allow_nan=False, allow_infinity=False))
def test_what_is_accepted_as_an_id_is_accepted_as_it_is_passed_on(number):
    raw = b'{"id":%s,"body":1}' % json.dumps(number).encode()
    message = messages.decode(raw, messages.VALUES)
    if message.faults:
        assert len(str(number)) > 128
        return
    passed_on = messages.decode(messages.encode(message.ids, [1.0], is_batch=False), messages.VALUES)
    assert passed_on.ids == message.ids


@given(st.integers(-(10**40), 10**40))
def test_equal_numbers_are_equal_ids(number):
    texts = {str(number), f"{number}.0", f"{number}e0"} if abs(number) < 2**53 else {str(number)}
    if float(number) == number and f"{float(number)!r}".replace("e+", "e") != str(number):
        exact = Decimal(repr(float(number))) == number
        texts |= {repr(float(number))} if exact else set()
    ids = [messages.decode(b'{"id":%s,"body":1}' % text.encode(), messages.VALUES).ids for text in texts]
    assert all(found == ids[0] and found for found in ids)


def test_different_numbers_are_different_ids():
    given_ids = ["9007199254740992", "9007199254740993", "123456789012345678901234567890", "1.5", "-1.5", "1"]
    assert len({messages.decode(b'{"id":%s,"body":1}' % i.encode(), messages.VALUES).ids[0] for i in given_ids}) == 6


def test_of_a_key_given_twice_the_last_one_counts():
    for raw in (b'{"id":"a","id":"b","body":1,"body":2}', b'{"id":[],"id":"b","body":"x","body":2}'):
        message = messages.decode(raw, messages.VALUES)
        assert (message.ids, message.bodies, message.faults) == (["b"], [2.0], {})


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b'{"id":"a","body":"1"}', """Expected `float`, got `str` - at `$.body` (id "a")"""),
        (b'{"body":1,"id":"a b"}', """must match [A-Za-z0-9][A-Za-z0-9._:+-]{0,127}, and is 'a b' (id "a b")"""),
        (b'{"id":true,"body":1}', "Expected `int | float | str`, got `bool` - at `$.id` (id true)"),
        (b'{"id":"a","body":NaN}', "it cannot be read: JSON is malformed: invalid character (byte 17): 'NaN}'"),
        (b'{"id":"a"}', 'Object missing required field `body` (id "a")'),
        (b'{"id":"a","body":1,"more":2}', 'Object contains unknown field `more` (id "a")'),
        (b"[]", "an empty batch"),
        (b"[" * 5000 + b"]" * 5000, "recursion depth exceeded while deserializing an object"),
    ],
)
def test_the_reason_says_what_was_found_and_names_the_id(raw, reason):
    assert messages.decode(raw, messages.VALUES).faults[0].endswith(reason)


def test_a_batch_on_which_a_model_fails_more_often_than_anybody_looks_at_is_set_aside_whole():
    faults = {position: f"reason {position}" for position in range(7, 7 + messages.MOST_FAULTS)}
    raw = b"[" + b",".join([b'{"id":"a","body":[1]}'] * 20_000) + b"]"
    message = messages.decode(raw, messages.FEATURES)
    assert len(list(messages.offending(raw, message, faults))) == len(faults)
    faults[0] = "the first"
    [(piece, reason)] = messages.offending(raw, message, faults)
    assert piece == raw
    assert reason == f"more than {messages.MOST_FAULTS} bad items, the first: the first"


def test_a_batch_of_more_bad_items_than_anybody_looks_at_is_set_aside_whole():
    raw = b"[" + b'{"id":"a","body":1},' + b"1," * messages.MOST_FAULTS + b"1]"
    message = messages.decode(raw, messages.VALUES)
    assert [piece for piece, _ in messages.offending(raw, message, message.faults)] == [raw]
