"""Deserializes values with confluent-kafka: the registry's URL, then each value in hexadecimal.

Prints each value as JSON, one a line.
"""

import json
import sys

from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.serialization import MessageField, SerializationContext

deserialize = AvroDeserializer(SchemaRegistryClient({"url": sys.argv[1]}))
context = SerializationContext("t", MessageField.VALUE)
for value in sys.argv[2:]:
    print(json.dumps(deserialize(bytes.fromhex(value), context), default=str))
