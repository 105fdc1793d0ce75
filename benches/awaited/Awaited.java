import java.io.InputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Locale;
import java.util.Properties;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/** Java's producer: each thread waits for {@code send().get()}. Writes a line of JSON. */
public class Awaited {
    private final KafkaProducer<byte[], byte[]> producer;
    private final String topic;
    private final int tasks;
    private final byte[] value;
    private final AtomicInteger errors = new AtomicInteger();

    private Awaited(KafkaProducer<byte[], byte[]> producer, String topic, int tasks, int size) {
        this.producer = producer;
        this.topic = topic;
        this.tasks = tasks;
        this.value = new byte[size];
    }

    /** Sends the records and returns the latency of each, in nanoseconds. */
    private long[] send(int records) throws InterruptedException {
        long[] latencies = new long[records];
        List<Thread> threads = new ArrayList<>();
        for (int t = 0; t < tasks; t++) {
            int first = t;
            Thread thread = new Thread(() -> {
                for (int i = first; i < records; i += tasks) {
                    long start = System.nanoTime();
                    try {
                        producer.send(new ProducerRecord<>(topic, value)).get();
                    } catch (Exception e) {
                        errors.incrementAndGet();
                    }
                    latencies[i] = System.nanoTime() - start;
                }
            });
            threads.add(thread);
            thread.start();
        }
        for (Thread thread : threads) {
            thread.join();
        }
        return latencies;
    }

    /** User and system time of the process in seconds, to 10 ms. */
    private static double cpuSeconds() throws Exception {
        String stat = Files.readString(Path.of("/proc/self/stat"));
        String[] fields = stat.substring(stat.lastIndexOf(')') + 2).split(" ");
        return (Long.parseLong(fields[11]) + Long.parseLong(fields[12])) / 100.0;
    }

    private static String maxRssKb() throws Exception {
        for (String line : Files.readAllLines(Path.of("/proc/self/status"))) {
            if (line.startsWith("VmHWM:")) {
                return line.replaceAll("[^0-9]", "");
            }
        }
        return "0";
    }

    /** The version of the jar. The class that knows it has another package from version 4.4. */
    private static String version() throws Exception {
        String name = "/kafka/kafka-version.properties";
        Properties properties = new Properties();
        try (InputStream file = Awaited.class.getResourceAsStream(name)) {
            properties.load(file);
        }
        return properties.getProperty("version");
    }

    public static void main(String[] args) throws Exception {
        if (args.length != 7) {
            System.err.println("usage: BOOTSTRAP TOPIC TASKS LINGER_MS RECORDS WARMUP SIZE");
            System.exit(2);
        }
        int tasks = Integer.parseInt(args[2]);
        int records = Integer.parseInt(args[4]);
        Properties settings = new Properties();
        settings.put("bootstrap.servers", args[0]);
        settings.put("linger.ms", args[3]);
        settings.put("key.serializer", ByteArraySerializer.class.getName());
        settings.put("value.serializer", ByteArraySerializer.class.getName());
        try (KafkaProducer<byte[], byte[]> producer = new KafkaProducer<>(settings)) {
            Awaited run = new Awaited(producer, args[1], tasks, Integer.parseInt(args[6]));
            run.send(Integer.parseInt(args[5]));
            double cpu = cpuSeconds();
            long start = System.nanoTime();
            long[] latencies = run.send(records);
            double wall = (System.nanoTime() - start) / 1e9;
            double cpuUs = (cpuSeconds() - cpu) * 1e6 / records;
            Arrays.sort(latencies);
            double[] ms = new double[4];
            double[] quantiles = {0.5, 0.99, 0.999, 1};
            for (int i = 0; i < 4; i++) {
                ms[i] = latencies[(int) ((records - 1) * quantiles[i])] / 1e6;
            }
            System.out.printf(Locale.ROOT,
                "{\"client\":\"java\",\"version\":\"%s\",\"tasks\":%d,\"linger_ms\":%s,"
                    + "\"records\":%d,\"wall_s\":%.6f,\"rec_per_s\":%.1f,\"cpu_us_per_rec\":%.3f,"
                    + "\"p50_ms\":%.4f,\"p99_ms\":%.4f,\"p999_ms\":%.4f,\"max_ms\":%.4f,"
                    + "\"max_rss_kb\":%s,\"errors\":%d}%n",
                version(), tasks, args[3], records, wall, records / wall, cpuUs,
                ms[0], ms[1], ms[2], ms[3], maxRssKb(), run.errors.get());
        }
    }
}
