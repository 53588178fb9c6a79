"""The messages that pass between the services: JSON (UTF-8), `{"id": ID, "body": BODY}`, or an array of these.

An array is a batch: one AMQP message, many samples. msgspec reads and checks a message in one call
(https://jcristharif.com/msgspec/); only where that finds a fault, item by item.
"""

import re
from decimal import Decimal
from typing import Annotated, Any, Dict, Generic, List, NamedTuple, Sequence, Tuple, TypeVar, Union

import msgspec

ID = "[A-Za-z0-9][A-Za-z0-9._:+-]{0,127}"
#: The ids of a batch, a line each: one match is faster than a hundred.
IDS = re.compile(f"{ID}(?:\n{ID})*")
LONGEST_ID = 128

#: A batch with more bad items than this is set aside whole, lest one message of 16 MB become millions.
MOST_FAULTS = 10_000

Body = TypeVar("Body")
Numbers = Annotated[List[float], msgspec.Meta(min_length=1)]


class Sample(msgspec.Struct, Generic[Body], gc=False, forbid_unknown_fields=True):
    """A sample as it is written; its id may be a number."""

    id: Union[str, int, float]
    body: Body


# Of a queue's messages. A float is finite: JSON knows no other.
VALUES = msgspec.json.Decoder(Union[Sample[float], List[Sample[float]]])  # true values, predictions
FEATURES = msgspec.json.Decoder(Union[Sample[Numbers], List[Sample[Numbers]]])

KEYS_DECODER = msgspec.json.Decoder(Dict[str, msgspec.Raw])
SPLITTER = msgspec.json.Decoder(List[msgspec.Raw])
ENCODER = msgspec.json.Encoder()

#: What reading a message may raise: text that is no UTF-8, no JSON or no sample, and lists in lists in lists.
UNREADABLE = (ValueError, msgspec.MsgspecError, RecursionError)


class Decoded(NamedTuple):
    """One decoded message: its good items in order, and what is wrong with the others."""

    ids: List[str]
    bodies: List[Any]
    positions: Sequence[int]  # of these in the message
    faults: Dict[int, str]  # position in the message -> one plain sentence
    is_batch: bool


def decode(raw: bytes, decoder: Any) -> Decoded:
    """Read a message by `VALUES` or by `FEATURES`."""
    try:
        document = decoder.decode(raw)
        items = document if isinstance(document, list) else [document]
        ids = _ids([item.id for item in items])
    except UNREADABLE:
        return _decode_by_item(raw, decoder)
    return Decoded(ids, [item.body for item in items], range(len(ids)), {}, items is document)


def encode(ids: Sequence[str], bodies: Sequence[Any], is_batch: bool) -> bytes:
    """A message with these samples; without `is_batch` it is the only one's object, not an array.

    A body is a finite float or a list of them.
    """
    # A text may not begin with a minus sign: only a number can be such an id, and goes on as one.
    items = [
        Sample(msgspec.Raw(sample_id.encode()) if sample_id[0] == "-" else sample_id, body)  # type: ignore[arg-type]
        for sample_id, body in zip(ids, bodies)
    ]
    return ENCODER.encode(items if is_batch else items[0])


def offending(raw: bytes, message: Decoded, faults: Dict[int, str]) -> List[Tuple[bytes, str]]:
    """What of a message is to be set aside, byte for byte, each with its reason.

    That is the whole message where nothing in it is good, or too much is bad, else each bad item as it stands in the
    message.
    """
    if not faults:
        return []
    if len(faults) > MOST_FAULTS:
        return [(raw, f"more than {MOST_FAULTS} bad items, the first: {faults[min(faults)]}")]
    if len(faults) == len(message.ids) + len(message.faults):
        return [(raw, faults[0])]
    pieces = SPLITTER.decode(raw)
    return [(bytes(pieces[at]), f"item {at + 1} of the batch: {reason}") for at, reason in sorted(faults.items())]


def _decode_by_item(raw: bytes, decoder: Any) -> Decoded:
    """Read a message in which something is wrong."""
    try:
        msgspec.json.decode(raw.decode("utf-8"), type=msgspec.Raw)  # is all of it JSON?
        is_batch = raw.lstrip()[:1] == b"["
        pieces = SPLITTER.decode(raw) if is_batch else [msgspec.Raw(raw)]
        if not pieces:
            raise ValueError("an empty batch")
    except UNREADABLE as error:
        place = re.search(r"\(byte (\d+)\)", str(error))
        found = f": {str(raw[int(place[1]) :][:20])[1:]}" if place else ""
        return Decoded([], [], [], {0: f"it cannot be read: {error}{found}"}, False)
    ids: List[str] = []
    bodies: List[Any] = []
    positions: List[int] = []
    faults: Dict[int, str] = {}
    for position, piece in enumerate(pieces):
        fields: Dict[str, Any] = {}
        try:
            fields = KEYS_DECODER.decode(piece)  # of a key given twice the last counts
            sample = decoder.decode(ENCODER.encode(fields))
            ids += _ids([sample.id])
        except UNREADABLE as error:
            named = f" (id {bytes(fields['id']).decode()[: LONGEST_ID + 3]})" if "id" in fields else ""
            faults[position] = f"no sample: {error}{named}"
            if len(faults) > MOST_FAULTS:
                return Decoded([], [], [], faults, is_batch)
        else:
            bodies.append(sample.body)
            positions.append(position)
    return Decoded(ids, bodies, positions, faults, is_batch)


def _ids(given: List[Any]) -> List[str]:
    """Ids as text. Raises ValueError."""
    try:
        lines = "\n".join(given)
    except TypeError:  # there are numbers among them
        return [_number(one) if isinstance(one, (int, float)) else _ids([one])[0] for one in given]
    if IDS.fullmatch(lines) and lines.count("\n") == len(given) - 1:
        return given
    raise ValueError(f"the id must match {ID}, and is {lines[: LONGEST_ID + 1]!r}")


def _number(given: Union[int, float]) -> str:
    """A number's shortest text, the same for 5, 5.0 and 5e0. Raises ValueError."""
    try:
        text = repr(float(given) + 0.0)  # -0.0 becomes 0.0
    except OverflowError:
        text = "inf"
    if isinstance(given, int) and Decimal(text) != given:
        text = str(given)  # more digits than a float has
    text = text[:-2] if text.endswith(".0") else text
    if len(text) > LONGEST_ID:
        raise ValueError(f"the id must have at most {LONGEST_ID} characters, and has {len(text)}")
    return text
