import java.io.*;
import java.time.Duration;
import java.util.*;
import org.apache.kafka.clients.consumer.*;
import org.apache.kafka.common.*;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

/** Reads a topic from its start to its end as it is now, and writes every record to stdout, length by length. */
public class Reader {
    static void field(DataOutputStream out, byte[] b) throws IOException {
        out.writeInt(b == null ? -1 : b.length);
        if (b != null) out.write(b);
    }

    public static void main(String[] args) throws Exception {
        Properties p = new Properties();
        p.put("bootstrap.servers", args[0]);
        p.put("check.crcs", "true");
        p.put("max.poll.records", "5000");
        DataOutputStream out = new DataOutputStream(new BufferedOutputStream(System.out, 1 << 20));
        try (var c = new KafkaConsumer<>(p, new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
            List<TopicPartition> all = new ArrayList<>();
            for (PartitionInfo i : c.partitionsFor(args[1])) all.add(new TopicPartition(args[1], i.partition()));
            c.assign(all);
            c.seekToBeginning(all);
            Map<TopicPartition, Long> ends = c.endOffsets(all);
            Set<TopicPartition> open = new HashSet<>();
            ends.forEach((tp, end) -> { if (end > 0) open.add(tp); });
            long deadline = System.currentTimeMillis() + 120_000;
            while (!open.isEmpty()) {
                if (System.currentTimeMillis() > deadline) throw new IllegalStateException("no end of " + open);
                for (ConsumerRecord<byte[], byte[]> r : c.poll(Duration.ofMillis(500))) {
                    out.writeInt(r.partition());
                    out.writeLong(r.offset());
                    out.writeLong(r.timestamp());
                    field(out, r.key());
                    field(out, r.value());
                    Header[] hs = r.headers().toArray();
                    out.writeInt(hs.length);
                    for (Header h : hs) { field(out, h.key().getBytes("UTF-8")); field(out, h.value()); }
                }
                open.removeIf(tp -> c.position(tp) >= ends.get(tp));
            }
        }
        out.flush();
    }
}
