"""Deserializes values with confluent-kafka: avro, protobuf or json, the registry's URL, and each
value in hexadecimal.

Prints each value as JSON, one a line.
"""

import json
import sys

from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.serialization import MessageField, SerializationContext


def avro(client):
    from confluent_kafka.schema_registry.avro import AvroDeserializer

    return AvroDeserializer(client)


def json_schema(client):
    from confluent_kafka.schema_registry.json_schema import JSONDeserializer

    return JSONDeserializer(None, schema_registry_client=client)


def protobuf(_client):
    """Reads the message shop.Order of the test.

    The deserializer needs a class. With a client it would request the schema in a binary form,
    which srfake does not have.
    """
    from confluent_kafka.schema_registry.protobuf import ProtobufDeserializer
    from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory

    types = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="t.proto", package="shop", syntax="proto3")
    item = file.message_type.add(name="Item")
    item.field.add(name="price", number=1, type=types.TYPE_DOUBLE, label=types.LABEL_OPTIONAL)
    order = file.message_type.add(name="Order")
    order.field.add(name="id", number=1, type=types.TYPE_INT64, label=types.LABEL_OPTIONAL)
    order.field.add(name="note", number=2, type=types.TYPE_STRING, label=types.LABEL_OPTIONAL)
    order.field.add(
        name="items",
        number=3,
        type=types.TYPE_MESSAGE,
        type_name=".shop.Item",
        label=types.LABEL_REPEATED,
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    message = message_factory.GetMessageClass(pool.FindMessageTypeByName("shop.Order"))
    deserialize = ProtobufDeserializer(message, {"use.deprecated.format": False})
    return lambda value, context: json_format.MessageToDict(deserialize(value, context))


formats = {"avro": avro, "protobuf": protobuf, "json": json_schema}
deserialize = formats[sys.argv[1]](SchemaRegistryClient({"url": sys.argv[2]}))
context = SerializationContext("t", MessageField.VALUE)
for value in sys.argv[3:]:
    print(json.dumps(deserialize(bytes.fromhex(value), context), default=str))
