"""Uses librdkafka's producer, group consumers and transactions against the brokers of a test.

Needs the package confluent-kafka, which contains librdkafka. The argument is the bootstrap servers,
with the topics `in`, of four partitions, and `out`. tests/other_clients.rs runs it. It prints how
many records it sent, and how many each of two members of a group got.
"""

import sys
import time

from confluent_kafka import Consumer, Producer

CODECS = ["none", "gzip", "snappy", "lz4", "zstd"]
RECORDS_PER_CODEC = 20
RECORDS_FOR_TWO_MEMBERS = 100
PARTITIONS = 4
DEADLINE = time.monotonic() + 60


def check_deadline(state):
    if time.monotonic() > DEADLINE:
        sys.exit(f"no progress: {state}")


def check_delivery(error, _message):
    assert error is None, error


def produce(servers, prefix, count, settings):
    producer = Producer(
        {"bootstrap.servers": servers, "enable.idempotence": True, **settings}
    )
    for number in range(count):
        producer.produce(
            "in", key=f"k{number}", value=f"{prefix}{number}", on_delivery=check_delivery
        )
    assert producer.flush(30) == 0


def start_consumer(servers, group, **settings):
    return Consumer(
        {
            "bootstrap.servers": servers,
            "group.id": group,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "heartbeat.interval.ms": 100,
            **settings,
        }
    )


def poll(consumer, timeout=0.05):
    messages = consumer.consume(100, timeout)
    for message in messages:
        assert message.error() is None, message.error()
    return messages


def consume_and_commit(servers, count):
    consumer = start_consumer(servers, "g")
    consumer.subscribe(["in"])
    read = 0
    while read < count:
        check_deadline(f"{read} of {count} records")
        read += len(poll(consumer))
    consumer.commit(asynchronous=False)
    consumer.close()


def share_group(servers):
    """Reads new records with two members. Those that were committed must not come again."""
    members = [start_consumer(servers, "g") for _ in range(2)]
    for member in members:
        member.subscribe(["in"])
    counts = [0, 0]

    def poll_all():
        for number, member in enumerate(members):
            counts[number] += len(poll(member))
        check_deadline(f"records {counts}")

    while any(len(m.assignment()) != PARTITIONS / 2 for m in members):
        poll_all()
    produce(servers, "shared", RECORDS_FOR_TWO_MEMBERS, {})
    while sum(counts) < RECORDS_FOR_TWO_MEMBERS:
        poll_all()
    for member in members:
        member.close()
    return counts


def copy_in_transactions(servers, count):
    """Copies the input to the output, exactly once. The first transaction is aborted."""
    producer = Producer(
        {"bootstrap.servers": servers, "transactional.id": "librdkafka"}
    )
    producer.init_transactions(30)
    consumer = start_consumer(servers, "copy")
    consumer.subscribe(["in"])
    copied, is_first = 0, True
    while copied < count:
        check_deadline(f"{copied} of {count} records copied")
        messages = poll(consumer)
        if not messages:
            continue
        producer.begin_transaction()
        for message in messages:
            producer.produce("out", value=message.value())
        if is_first:
            # An abort drops what is not sent yet, so this waits for the broker.
            assert producer.flush(30) == 0
            producer.abort_transaction(30)
            rewind(consumer, messages)
            is_first = False
            continue
        producer.send_offsets_to_transaction(
            consumer.position(consumer.assignment()), consumer.consumer_group_metadata(), 30
        )
        producer.commit_transaction(30)
        copied += len(messages)
    consumer.close()


def rewind(consumer, messages):
    first = {}
    for message in messages:
        first.setdefault(message.partition(), message)
    for partition in consumer.assignment():
        if partition.partition in first:
            partition.offset = first[partition.partition].offset()
            consumer.seek(partition)


def main():
    servers = sys.argv[1]
    for codec in CODECS:
        produce(servers, codec, RECORDS_PER_CODEC, {"compression.type": codec})
    sent = len(CODECS) * RECORDS_PER_CODEC
    print("sent", sent)
    consume_and_commit(servers, sent)
    print("shared", *share_group(servers))
    copy_in_transactions(servers, sent + RECORDS_FOR_TWO_MEMBERS)


main()
