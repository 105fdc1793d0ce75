import java.util.Arrays;
import java.util.Locale;
import java.util.Properties;
import java.util.concurrent.Future;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/**
 * Commits transactions with Kafka's producer, and writes a line of JSON. Arguments: bootstrap
 * servers, topic, records of a transaction, transactions before the measurement, measured ones.
 */
public class Transactions {
    private static final int RECORD_BYTES = 100;

    public static void main(String[] args) throws Exception {
        String topic = args[1];
        int records = Integer.parseInt(args[2]);
        int warmup = Integer.parseInt(args[3]);
        int count = Integer.parseInt(args[4]);
        Properties p = new Properties();
        p.put("bootstrap.servers", args[0]);
        p.put("transactional.id", "bench-java-" + ProcessHandle.current().pid());
        ByteArraySerializer bytes = new ByteArraySerializer();
        long[] commitNanos = new long[count];
        long start = 0;
        try (KafkaProducer<byte[], byte[]> producer = new KafkaProducer<>(p, bytes, bytes)) {
            producer.initTransactions();
            byte[] value = new byte[RECORD_BYTES];
            Future<RecordMetadata> last = null;
            for (int i = -warmup; i < count; i++) {
                if (i == 0) {
                    start = System.nanoTime();
                }
                producer.beginTransaction();
                for (int k = 0; k < records; k++) {
                    last = producer.send(new ProducerRecord<>(topic, value));
                }
                long commitStart = System.nanoTime();
                producer.commitTransaction();
                if (i >= 0) {
                    commitNanos[i] = System.nanoTime() - commitStart;
                }
                last.get();
            }
            double seconds = (System.nanoTime() - start) / 1e9;
            Arrays.sort(commitNanos);
            System.out.printf(
                    Locale.ROOT,
                    "{\"client\":\"java\",\"version\":\"%s\",\"records_per_transaction\":%d,"
                            + "\"transactions\":%d,\"transactions_per_s\":%.1f,"
                            + "\"commit_p50_ms\":%.2f,\"commit_p99_ms\":%.2f}%n",
                    version(producer), records, count, count / seconds,
                    commitNanos[count / 2] / 1e6, commitNanos[(int) (count * 0.99)] / 1e6);
        }
    }

    /** Returns the version that the client reports: its class has another package in 4.4. */
    private static Object version(KafkaProducer<?, ?> producer) {
        return producer.metrics().values().stream()
                .filter(m -> m.metricName().group().equals("app-info"))
                .filter(m -> m.metricName().name().equals("version"))
                .findFirst()
                .map(m -> m.metricValue())
                .orElse("unknown");
    }
}
