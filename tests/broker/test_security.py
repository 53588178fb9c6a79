"""Encrypted connections, and secrets that stay secret. What containers may do is in test_compose."""

import pytest

USER = "amqps://guest:guest"


def test_an_encrypted_connection_works_with_the_authority_that_signed(pipeline, certificates, vhost):
    url = f"{USER}@127.0.0.1:{certificates.port}/{vhost['RABBITMQ_VHOST']}"
    for script in ("model", "metrics"):
        pipeline.connected(script, RABBITMQ_URL=url, SSL_CERT_FILE=certificates.authority)
    source = pipeline.start("features", RABBITMQ_URL=url, SSL_CERT_FILE=certificates.authority, SAMPLES=100, INTERVAL=0)
    assert source.ends() == 0
    pipeline.wait_for_rows(100)


def test_a_certificate_of_another_authority_is_refused(pipeline, certificates):
    url = f"{USER}@127.0.0.1:{certificates.port}/"
    process = pipeline.start("model", RABBITMQ_URL=url, SSL_CERT_FILE=certificates.other_authority)
    process.says("certificate verify failed").says("next try in 1 s")
    assert process.stop() < 5


def test_a_certificate_for_another_name_is_refused(pipeline, certificates):
    url = f"{USER}@localhost:{certificates.port}/"
    pipeline.start("model", RABBITMQ_URL=url, SSL_CERT_FILE=certificates.authority).says("certificate is not valid for")


@pytest.mark.parametrize("script", ["features", "model", "metrics"])
@pytest.mark.parametrize("port", ["5672", "1"], ids=["refused by RabbitMQ", "no RabbitMQ"])
def test_a_password_is_in_no_log_line(pipeline, node, script, port):
    port = node.port if port == "5672" else port
    by_parts = pipeline.start(script, LOG_LEVEL="DEBUG", RABBITMQ_PORT=port, RABBITMQ_PASSWORD="s3cr3t")
    url = f"amqp://guest:s3cr3t@127.0.0.1:{port}/"
    by_url = pipeline.start(script, LOG_LEVEL="DEBUG", RABBITMQ_URL=url)
    for process in (by_parts, by_url):
        process.says("next try in 1 s")
        assert "s3cr3t" not in process.output
        if port == node.port:
            assert "ACCESS_REFUSED" in process.output
