/* The model's stage in C, to measure against: what RabbitMQ allows where its client costs next to nothing.

       cc -O2 tests/load/model_stage.c -lrabbitmq -o model_stage    (Debian: librabbitmq-dev)
       RABBITMQ_HOST=localhost RABBITMQ_PORT=5672 RABBITMQ_VHOST=/ ./model_stage

   Reads samples from `features`, one a message, and publishes the sum of each to `y_pred`: persistent, mandatory,
   confirmed. A message is acknowledged when RabbitMQ has confirmed its answer. The program ends at whatever it does not
   expect, as a message that is no sample, or an answer that is refused or comes back; what it had in hand RabbitMQ
   delivers again. */

#include <amqp.h>
#include <amqp_tcp_socket.h>
#include <ctype.h>
#include <math.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum { CHANNEL = 1, PREFETCH = 2000, FRAME = 131072, HEARTBEAT = 60 /* s */ };
enum { PORTION = 200 }; /* frames after which what is written is sent, though more have arrived */

static amqp_connection_state_t connection;

static void check(int good, const char *otherwise)
{
    if (!good) {
        fprintf(stderr, "model_stage: %s\n", otherwise);
        exit(1);
    }
}

static int done(amqp_rpc_reply_t reply)
{
    return reply.reply_type == AMQP_RESPONSE_NORMAL;
}

static const char *setting(const char *name, const char *otherwise)
{
    const char *value = getenv(name);
    return value ? value : otherwise;
}

static void connect_and_consume(void)
{
    const char *host = setting("RABBITMQ_HOST", "localhost"), *vhost = setting("RABBITMQ_VHOST", "/");
    connection = amqp_new_connection();
    amqp_socket_t *socket = amqp_tcp_socket_new(connection); /* with TCP_NODELAY */
    check(!amqp_socket_open(socket, host, atoi(setting("RABBITMQ_PORT", "5672"))), "cannot connect");
    check(done(amqp_login(connection, vhost, 0, FRAME, HEARTBEAT, AMQP_SASL_METHOD_PLAIN, "guest", "guest")),
          "cannot log in");
    check(amqp_channel_open(connection, CHANNEL) && amqp_confirm_select(connection, CHANNEL) &&
              amqp_basic_qos(connection, CHANNEL, 0, PREFETCH, 0) &&
              amqp_basic_consume(connection, CHANNEL, amqp_cstring_bytes("features"), amqp_empty_bytes, 0, 0, 0,
                                 amqp_empty_table),
          "cannot consume features");
    puts("connected to RabbitMQ");
    fflush(stdout);
}

static char *past_blanks(char *at)
{
    while (isspace((unsigned char)*at))
        at++;
    return at;
}

/* Past these characters, with or without blanks before each. */
static char *past(char *at, const char *characters)
{
    for (; *characters; at++) {
        at = past_blanks(at);
        check(*at == *characters++, "a message is no sample");
    }
    return at;
}

static void answer(amqp_bytes_t sample)
{
    static const amqp_basic_properties_t properties = {
        ._flags = AMQP_BASIC_CONTENT_TYPE_FLAG | AMQP_BASIC_DELIVERY_MODE_FLAG,
        .content_type = {16, "application/json"},
        .delivery_mode = AMQP_DELIVERY_PERSISTENT,
    };
    char *text = sample.bytes, *number, *end, written[256];
    double sum = 0.0;
    /* It has no zero at its end: all that reads on from here ends at this brace, at the latest. */
    check(sample.len && text[sample.len - 1] == '}', "a message does not end as a sample");
    char *id = past(text, "{\"id\":\"");
    size_t length = strcspn(id, "\"\\}");
    check(length <= 128, "an id has more than 128 characters");
    for (number = past(id + length, "\",\"body\":[");; number = end + 1) {
        sum += strtod(number, &end);
        check(end > number, "a message has something else for a number");
        end = past_blanks(end);
        if (*end != ',')
            break;
    }
    past(end, "]}");
    check(isfinite(sum), "a sum is not finite");
    int size = sprintf(written, "{\"id\":\"%.*s\",\"body\":%.17g}", (int)length, id, sum);
    amqp_bytes_t body = {(size_t)size, written}, queue = amqp_cstring_bytes("y_pred");
    check(!amqp_basic_publish(connection, CHANNEL, amqp_empty_bytes, queue, 1, 0, &properties, body), "cannot publish");
}

/* The newest delivery up to which all answers are confirmed, after one more confirm. A channel counts from 1 what it
   delivers and what is published on it: with one answer each, in their order, both have the same number. */
static uint64_t confirmed_to(const amqp_basic_ack_t *confirm)
{
    static char confirmed[PREFETCH]; /* of the deliveries after `newest`, by their number's remainder */
    static uint64_t newest;
    for (uint64_t n = confirm->multiple ? newest + 1 : confirm->delivery_tag; n <= confirm->delivery_tag; n++)
        confirmed[n % PREFETCH] = 1;
    while (confirmed[(newest + 1) % PREFETCH])
        confirmed[++newest % PREFETCH] = 0;
    return newest;
}

int main(void)
{
    static const struct timeval at_once = {0, 0};
    uint64_t confirmed = 0, acknowledged = 0;
    amqp_frame_t frame;
    connect_and_consume();
    for (int handled = 1;; handled++) {
        int status = amqp_simple_wait_frame_noblock(connection, &frame, &at_once);
        if (status == AMQP_STATUS_TIMEOUT || handled % PORTION == 0) {
            if (confirmed > acknowledged)
                check(!amqp_basic_ack(connection, CHANNEL, acknowledged = confirmed, 1), "cannot acknowledge");
            for (int cork = 0; cork < 2; cork++) /* out, which sends all that is written, and in again */
                setsockopt(amqp_get_sockfd(connection), IPPROTO_TCP, TCP_CORK, &cork, sizeof cork);
        }
        if (status == AMQP_STATUS_TIMEOUT)
            status = amqp_simple_wait_frame(connection, &frame);
        check(!status, amqp_error_string2(status));
        if (frame.frame_type != AMQP_FRAME_METHOD)
            continue; /* a heartbeat */
        if (frame.payload.method.id == AMQP_BASIC_DELIVER_METHOD) {
            amqp_message_t message;
            check(done(amqp_read_message(connection, CHANNEL, &message, 0)), "cannot read a message");
            answer(message.body);
            amqp_destroy_message(&message);
        } else {
            check(frame.payload.method.id == AMQP_BASIC_ACK_METHOD, amqp_method_name(frame.payload.method.id));
            confirmed = confirmed_to(frame.payload.method.decoded);
        }
        amqp_maybe_release_buffers(connection);
    }
}
