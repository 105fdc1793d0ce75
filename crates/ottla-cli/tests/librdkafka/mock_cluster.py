"""Runs librdkafka's mock cluster of three brokers until standard input ends.

Needs the package confluent-kafka, which contains librdkafka. tests/mock_cluster.rs runs it. It prints
the bootstrap servers. Then it reads commands, one on a line, and prints a line for each:

    topic NAME PARTITIONS     creates a topic
    coordinator ID NODE       moves the coordinator of a transactional id
    errors API CODE...        the codes of the next responses of an API
    read NAME COUNT           prints the values of a topic with one partition, separated by spaces
"""

import ctypes
import glob
import os
import sys

import confluent_kafka
from confluent_kafka import Consumer, TopicPartition

BROKERS = 3
PRODUCER = 0


def load_librdkafka():
    package = os.path.dirname(confluent_kafka.__file__)
    bundled = glob.glob(os.path.join(package, "..", "confluent_kafka.libs", "librdkafka-*"))
    library = ctypes.CDLL(bundled[0] if bundled else "librdkafka.so.1")
    pointer, text = ctypes.c_void_p, ctypes.c_char_p
    library.rd_kafka_conf_new.restype = pointer
    library.rd_kafka_new.restype = pointer
    library.rd_kafka_new.argtypes = [ctypes.c_int, pointer, text, ctypes.c_size_t]
    library.rd_kafka_mock_cluster_new.restype = pointer
    library.rd_kafka_mock_cluster_new.argtypes = [pointer, ctypes.c_int]
    library.rd_kafka_mock_cluster_bootstraps.restype = text
    library.rd_kafka_mock_cluster_bootstraps.argtypes = [pointer]
    library.rd_kafka_mock_topic_create.argtypes = [pointer, text, ctypes.c_int, ctypes.c_int]
    library.rd_kafka_mock_coordinator_set.argtypes = [pointer, text, text, ctypes.c_int32]
    library.rd_kafka_mock_push_request_errors_array.restype = None
    library.rd_kafka_mock_push_request_errors_array.argtypes = [
        pointer,
        ctypes.c_int16,
        ctypes.c_size_t,
        ctypes.POINTER(ctypes.c_int),
    ]
    return library


def read(servers, topic, count):
    consumer = Consumer({"bootstrap.servers": servers, "group.id": "reader"})
    consumer.assign([TopicPartition(topic, 0, 0)])
    values = []
    while len(values) < count:
        messages = consumer.consume(count - len(values), 30)
        if not messages:
            break
        values += [message.value().decode() for message in messages if message.error() is None]
    consumer.close()
    return " ".join(values)


def main():
    library = load_librdkafka()
    errors = ctypes.create_string_buffer(512)
    handle = library.rd_kafka_new(PRODUCER, library.rd_kafka_conf_new(), errors, len(errors))
    assert handle, errors.value
    cluster = library.rd_kafka_mock_cluster_new(handle, BROKERS)
    assert cluster
    servers = library.rd_kafka_mock_cluster_bootstraps(cluster).decode()
    print(servers, flush=True)
    for line in sys.stdin:
        command, *words = line.split()
        result = "ok"
        if command == "topic":
            name, partitions = words
            code = library.rd_kafka_mock_topic_create(cluster, name.encode(), int(partitions), 1)
            assert code == 0, code
        elif command == "coordinator":
            name, node = words
            code = library.rd_kafka_mock_coordinator_set(
                cluster, b"transaction", name.encode(), int(node)
            )
            assert code == 0, code
        elif command == "errors":
            api, *codes = map(int, words)
            codes = (ctypes.c_int * len(codes))(*codes)
            library.rd_kafka_mock_push_request_errors_array(cluster, api, len(codes), codes)
        elif command == "read":
            result = read(servers, words[0], int(words[1]))
        else:
            sys.exit(f"unknown command: {line}")
        print(result, flush=True)


main()
