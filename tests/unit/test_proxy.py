"""The witness on the wire that chaos believes."""

import pika.frame
import pika.spec

from support.proxy import Wire


def test_what_a_queue_refused_is_not_confirmed_by_a_later_confirm_of_several():
    wire = Wire()
    tap = wire.tap()
    for body in (b'{"id":"refused"}', b'{"id":"taken"}'):
        tap.read("client", pika.frame.Method(1, pika.spec.Basic.Publish(routing_key="features")).marshal())
        tap.read("client", pika.frame.Header(1, len(body), pika.spec.BasicProperties()).marshal())
        tap.read("client", pika.frame.Body(1, body).marshal())
    tap.read("server", pika.frame.Method(1, pika.spec.Basic.Nack(delivery_tag=1)).marshal())
    tap.read("server", pika.frame.Method(1, pika.spec.Basic.Ack(delivery_tag=2, multiple=True)).marshal())
    assert wire.confirmed_ids("features") == {"taken"}
