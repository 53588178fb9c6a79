"""The messages that pass between the services: JSON (UTF-8), `{"id": ID, "body": BODY}`, or an array of these.

An array is a batch: one AMQP message, many samples. The queues `y_true` and `y_pred` may have shards, see `shard`.
"""

import json
import re
from math import isfinite
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

#: An id given as text. One that is given as a number is used as its shortest text instead.
ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:+-]{0,127}")

#: y_pred and its shards.
ANSWERS = re.compile(r"y_pred(\.[1-9][0-9]?)?")

KEYS = {"id", "body"}
#: A batch with more bad items than this is set aside whole, lest one message of 16 MB become millions.
MOST_FAULTS = 10_000

REPEATED_KEY = object()  # stands for a JSON object that gives the same key twice
SPACE = re.compile(r"[ \t\n\r]*")  # https://www.rfc-editor.org/rfc/rfc8259#section-2


def shard(queue: str, number: int) -> str:
    """The name of a shard of a queue: number 0 is the queue itself, number 2 of y_true is y_true.2."""
    return f"{queue}.{number}" if number else queue


def answer_queue(reply_to: Optional[str]) -> str:
    """Where the answer to a message belongs: the shard of y_pred that it asks for, else y_pred."""
    return reply_to if reply_to and ANSWERS.fullmatch(reply_to) else "y_pred"


class Malformed(ValueError):
    """A message or an item of a batch breaks the contract; the text says how."""


class Message(NamedTuple):
    """One decoded message: the ids and bodies of its good items, in order, and what is wrong with the others."""

    ids: List[str]
    bodies: List[Any]
    faults: Dict[int, str]  # position in the message -> one plain sentence
    is_batch: bool

    def positions(self) -> List[int]:
        """Where in the message its good items stand."""
        return [position for position in range(len(self.ids) + len(self.faults)) if position not in self.faults]


def decode(raw: bytes, check: Callable[[Any], Any]) -> Message:
    """Read a message; `check` returns a body as the service wants it or raises Malformed."""
    try:
        document = DECODER.decode(raw.decode("utf-8"))
    except RecursionError:
        return Message([], [], {0: "not JSON that can be read: nested too deeply"}, False)
    except ValueError as error:
        return Message([], [], {0: f"not JSON in UTF-8: {error}"}, False)
    is_batch = type(document) is list
    items = document if is_batch else [document]
    if not items:
        return Message([], [], {0: "an empty batch"}, False)
    ids: List[str] = []
    bodies: List[Any] = []
    faults: Dict[int, str] = {}
    for position, item in enumerate(items):
        try:
            if type(item) is not dict or item.keys() != KEYS:
                raise Malformed(_what_is_wrong_with_the_keys(item))
            sample_id, body = _id(item["id"]), check(item["body"])
        except Malformed as fault:
            faults[position] = str(fault)
            if len(faults) > MOST_FAULTS:
                return Message([], [], {0: f"more than {MOST_FAULTS} bad items, the last: {fault}"}, is_batch)
        else:
            ids.append(sample_id)
            bodies.append(body)
    return Message(ids, bodies, faults, is_batch)


def encode(ids: Sequence[str], bodies: Sequence[Any], is_batch: bool) -> bytes:
    """A message with these samples; without `is_batch` it is the only one's object, not an array.

    A body is a finite float or a list of them.
    """
    # Such numbers, such lists and ids look in JSON as they do in Python; json.dumps takes 1.6 times as long.
    items = ",".join([f'{{"id":"{sample_id}","body":{body!r}}}' for sample_id, body in zip(ids, bodies)])
    return (f"[{items}]" if is_batch else items).encode()


def offending(raw: bytes, message: Message, faults: Dict[int, str]) -> Iterator[Tuple[bytes, str]]:
    """What of a message is to be set aside, byte for byte, each with its reason.

    That is the whole message where nothing in it is good, else each bad item as it stands in the message.
    """
    if not faults:
        return
    if len(faults) == len(message.ids) + len(message.faults):
        yield raw, faults[0]
        return
    for position, piece in enumerate(_pieces(raw.decode("utf-8"))):
        if position in faults:
            yield piece.encode("utf-8"), f"item {position + 1} of the batch: {faults[position]}"


def finite_number(body: Any) -> float:
    """A body of `y_true` or `y_pred`."""
    if (type(body) is float or type(body) is int) and isfinite(body):
        return float(body)
    raise Malformed("the body must be a finite number")


def finite_numbers(body: Any) -> List[float]:
    """A body of `features`."""
    if type(body) is list and NUMBER_TYPES.issuperset(map(type, body)) and all(map(isfinite, body)):
        return body
    raise Malformed("the body must be a list of finite numbers")


NUMBER_TYPES = {float, int}  # not bool, which is an int to Python but not to JSON


def _id(given: Any) -> str:
    if type(given) is str:
        if ID.fullmatch(given):
            return given
        raise Malformed("the id must match [A-Za-z0-9][A-Za-z0-9._:+-]{0,127}")
    if type(given) in NUMBER_TYPES and isfinite(given):
        # 5.0 and 5 are one number to JSON; past 2**53 a float's digits are no longer its own.
        shortest = str(int(given)) if given == int(given) and abs(given) < 2**53 else str(given)
        if len(shortest) <= 128:
            return shortest
    raise Malformed("the id must be a string or a finite number of at most 128 characters")


def _what_is_wrong_with_the_keys(item: Any) -> str:
    if item is REPEATED_KEY:
        return "an object gives the same key twice"
    return 'it must be an object with the keys "id" and "body" and no other'


def _pieces(array: str) -> Iterator[str]:
    """The text of each element of a JSON array that is known to be one."""
    position = array.index("[") + 1
    while True:
        start = SPACE.match(array, position).end()  # type: ignore[union-attr]  # it matches anything
        _, end = DECODER.raw_decode(array, start)
        yield array[start:end]
        after = SPACE.match(array, end).end()  # type: ignore[union-attr]
        if array[after] == "]":
            return
        position = after + 1  # behind the comma


def _object(pairs: List[Tuple[str, Any]]) -> Any:
    item = dict(pairs)
    return item if len(item) == len(pairs) else REPEATED_KEY


def _integer(digits: str) -> Any:
    # int() takes time that grows with the square of the digits, and newer Pythons refuse more than 4,300.
    return int(digits) if len(digits) <= 300 else float(digits)


#: NaN and Infinity are read like numbers, so that in a batch only the items that hold them are set aside.
DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=_integer)
