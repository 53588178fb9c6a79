"""Where RabbitMQ may be found, from the settings; none of their passwords is ever shown."""

import re
from typing import List
from urllib.parse import urlsplit

import pika

from parts import settings

RABBITMQ_HOST = settings.text("RABBITMQ_HOST", "rabbitmq")  # one, or several of a cluster with commas
RABBITMQ_PORT = settings.number("RABBITMQ_PORT", 5672, 1, 65535, int)
RABBITMQ_USER = settings.text("RABBITMQ_USER", "guest")
RABBITMQ_PASSWORD = settings.text("RABBITMQ_PASSWORD", "guest")
RABBITMQ_VHOST = settings.text("RABBITMQ_VHOST", "/")
RABBITMQ_URL = settings.text("RABBITMQ_URL", "")  # amqp:// or amqps://, instead of all of the above

#: A name, IPv4 or IPv6.
HOST = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?|[0-9A-Fa-f.]*:[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*")


def hosts() -> List[pika.connection.Parameters]:
    """Where RabbitMQ may be found, from the settings; a wrong one stops the script."""
    if not RABBITMQ_URL:
        credentials = pika.PlainCredentials(RABBITMQ_USER, RABBITMQ_PASSWORD)
        names = [name.strip() for name in RABBITMQ_HOST.split(",")]
        if not all(map(HOST.fullmatch, names)):
            must = "it must be a host, or hosts with commas; a port goes into RABBITMQ_PORT, a URL into RABBITMQ_URL"
            settings.refuse("RABBITMQ_HOST", without_secret(RABBITMQ_HOST), must)
        return [pika.ConnectionParameters(name, RABBITMQ_PORT, RABBITMQ_VHOST, credentials) for name in names]
    try:
        return [_parse_url(url.strip()) for url in re.split(r",(?=\s*amqps?://)", RABBITMQ_URL)]
    except Exception:  # whatever pika makes of it; its text may hold the password
        must = "it must be amqp://USER:PASSWORD@HOST:PORT/VHOST, or amqps://…"
        escaped = "in it, # / ? @ of a password are %23 %2F %3F %40"
        settings.refuse("RABBITMQ_URL", without_secret(RABBITMQ_URL), f"{must}; {escaped}")


def _parse_url(url: str) -> pika.URLParameters:
    parts = urlsplit(url)
    # An @ behind the host, or a #: what stands before is not the host but the beginning of a password.
    if parts.scheme not in ("amqp", "amqps") or not HOST.fullmatch(parts.hostname or "") or parts.fragment:
        raise ValueError
    if "@" in parts.path + parts.query or parts.netloc.count("@") > 1 or "tcp_options" in parts.query:
        raise ValueError  # the latter pika would look at only when it connects
    return pika.URLParameters(url)


def without_secret(value: str) -> str:
    """What may be shown of a wrong host or URL: all where it holds no more than host and port, else nothing."""
    return value if re.fullmatch(r"(\w+://)?[\w., -]*(:\d{1,5})?(/\w*)?", value) else "***"
