"""Prints the partition that librdkafka chooses for each key, by partitioner.

Needs the package confluent-kafka, which contains librdkafka. Arguments: the bootstrap servers and
the topic. The keys are lines of hexadecimal digits on standard input. tests/migrating.rs runs it.
"""

import sys

from confluent_kafka import Producer

PARTITIONERS = [
    "consistent",
    "consistent_random",
    "murmur2",
    "murmur2_random",
    "fnv1a",
    "fnv1a_random",
]


def main():
    servers, topic = sys.argv[1:3]
    keys = [bytes.fromhex(line.strip()) for line in sys.stdin]
    for partitioner in PARTITIONERS:
        chosen = [None] * len(keys)
        producer = Producer({"bootstrap.servers": servers, "partitioner": partitioner})

        def report(number):
            def on_delivery(error, message):
                assert error is None, error
                chosen[number] = message.partition()

            return on_delivery

        for number, key in enumerate(keys):
            producer.produce(topic, key=key, value=b"v", on_delivery=report(number))
        producer.flush()
        print(partitioner, *chosen)


main()
