import java.io.*;
import java.time.Duration;
import java.util.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.common.*;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/**
 * Reads a topic from the start to the end offsets that it has at the beginning, and writes every
 * record to standard output. Arguments: bootstrap servers, topic, isolation level.
 *
 * <p>A record is: partition, offset, timestamp, key, value, number of headers, and the headers'
 * keys and values. A byte array is its length and its bytes; length -1 means null.
 */
public class Reader {
    static void writeBytes(DataOutputStream out, byte[] b) throws IOException {
        out.writeInt(b == null ? -1 : b.length);
        if (b != null) out.write(b);
    }

    static void writeRecord(DataOutputStream out, ConsumerRecord<byte[], byte[]> r)
            throws IOException {
        out.writeInt(r.partition());
        out.writeLong(r.offset());
        out.writeLong(r.timestamp());
        writeBytes(out, r.key());
        writeBytes(out, r.value());
        Header[] headers = r.headers().toArray();
        out.writeInt(headers.length);
        for (Header h : headers) {
            writeBytes(out, h.key().getBytes("UTF-8"));
            writeBytes(out, h.value());
        }
    }

    public static void main(String[] args) throws Exception {
        Properties p = new Properties();
        p.put("bootstrap.servers", args[0]);
        p.put("isolation.level", args[2]);
        p.put("check.crcs", "true");
        p.put("max.poll.records", "5000");
        String topic = args[1];
        ByteArrayDeserializer bytes = new ByteArrayDeserializer();
        DataOutputStream out = new DataOutputStream(new BufferedOutputStream(System.out, 1 << 20));
        try (var consumer = new KafkaConsumer<>(p, bytes, bytes)) {
            List<TopicPartition> all = new ArrayList<>();
            for (PartitionInfo i : consumer.partitionsFor(topic)) {
                all.add(new TopicPartition(topic, i.partition()));
            }
            consumer.assign(all);
            consumer.seekToBeginning(all);
            Map<TopicPartition, Long> ends = consumer.endOffsets(all);
            Set<TopicPartition> unread = new HashSet<>();
            ends.forEach((tp, end) -> { if (end > 0) unread.add(tp); });
            long deadline = System.currentTimeMillis() + 120_000;
            while (!unread.isEmpty()) {
                if (System.currentTimeMillis() > deadline) {
                    throw new IllegalStateException("end offset not reached of " + unread);
                }
                for (ConsumerRecord<byte[], byte[]> r : consumer.poll(Duration.ofMillis(500))) {
                    writeRecord(out, r);
                }
                unread.removeIf(tp -> consumer.position(tp) >= ends.get(tp));
            }
        }
        out.flush();
    }
}
