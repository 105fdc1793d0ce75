import java.io.InputStream;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.atomic.LongAdder;
import java.util.concurrent.locks.LockSupport;
import java.util.stream.Stream;
import org.apache.kafka.clients.producer.Callback;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/**
 * Java's producer. Each thread calls {@code send} with one callback for all records, which counts
 * the errors. The arrays of the values are shared; a key is a new array. Writes a line of JSON.
 */
public class Throughput {
    private final Map<String, String> options = new HashMap<>();
    private final List<KafkaProducer<byte[], byte[]>> producers = new ArrayList<>();
    private final LongAdder errors = new LongAdder();
    private final Callback callback = (metadata, e) -> {
        if (e != null) {
            if (errors.sum() == 0) {
                System.err.println("java: " + e);
            }
            errors.increment();
        }
    };
    private final String topic;
    private final int threads;
    private final boolean keyed;
    private final byte[][] values;

    private Throughput(String[] args) throws Exception {
        for (int i = 0; i + 1 < args.length; i += 2) {
            options.put(args[i], args[i + 1]);
        }
        topic = option("--topic", "bench");
        threads = (int) number("--threads", 1);
        keyed = Boolean.parseBoolean(option("--keyed", "false"));
        byte[] all = Files.readAllBytes(Path.of(options.get("--values")));
        int size = (int) number("--size", 0);
        values = new byte[all.length / size][];
        for (int i = 0; i < values.length; i++) {
            values[i] = Arrays.copyOfRange(all, i * size, (i + 1) * size);
        }
        for (long p = number("--producers", 1); p > 0; p--) {
            producers.add(new KafkaProducer<>(properties()));
        }
        for (KafkaProducer<byte[], byte[]> producer : producers) {
            producer.partitionsFor(topic);
        }
    }

    private String option(String name, String otherwise) {
        return options.getOrDefault(name, otherwise);
    }

    private long number(String name, long otherwise) {
        return Long.parseLong(option(name, Long.toString(otherwise)));
    }

    private Properties properties() {
        Properties properties = new Properties();
        properties.put("bootstrap.servers", options.get("--bootstrap"));
        properties.put("acks", "all");
        properties.put("enable.idempotence", "true");
        properties.put("max.in.flight.requests.per.connection", "5");
        properties.put("batch.size", option("--batch-size", "16384"));
        properties.put("linger.ms", "5");
        properties.put("buffer.memory", option("--buffer-memory", "33554432"));
        properties.put("buffer.memory.allocation.strategy",
            option("--allocation-strategy", "full"));
        properties.put("compression.type", option("--compression", "none"));
        properties.put("key.serializer", ByteArraySerializer.class.getName());
        properties.put("value.serializer", ByteArraySerializer.class.getName());
        if (options.containsKey("--tls-ca")) {
            properties.put("security.protocol", "SSL");
            properties.put("ssl.truststore.type", "PEM");
            properties.put("ssl.truststore.location", options.get("--tls-ca"));
        }
        return properties;
    }

    /** Sends the records from all threads, and waits until they are acknowledged. */
    private void send(long records, long rate) throws Exception {
        long start = System.nanoTime();
        List<Thread> running = new ArrayList<>();
        for (int t = 1; t < threads; t++) {
            int first = t;
            Thread thread = new Thread(() -> sendFromThread(first, records, rate, start));
            running.add(thread);
            thread.start();
        }
        sendFromThread(0, records, rate, start);
        for (Thread thread : running) {
            thread.join();
        }
        producers.forEach(KafkaProducer::flush);
    }

    private void sendFromThread(int first, long records, long rate, long start) {
        for (long i = first; i < records; i += threads) {
            if (rate > 0) {
                // All records of a millisecond are due at its start.
                long due = start + i * 1000 / rate * 1_000_000;
                for (long now = System.nanoTime(); now < due; now = System.nanoTime()) {
                    LockSupport.parkNanos(due - now);
                }
            }
            byte[] key = null;
            if (keyed) {
                key = ByteBuffer.allocate(8).putLong(i * 0x9E3779B97F4A7C15L).array();
            }
            byte[] value = values[(int) (i % values.length)];
            producers.get((int) (i % producers.size()))
                .send(new ProducerRecord<>(topic, key, value), callback);
        }
    }

    /** User and system time of the process in seconds, to 10 ms. */
    private static double cpuSeconds() throws Exception {
        String stat = Files.readString(Path.of("/proc/self/stat"));
        String[] fields = stat.substring(stat.lastIndexOf(')') + 2).split(" ");
        return (Long.parseLong(fields[11]) + Long.parseLong(fields[12])) / 100.0;
    }

    private static long statusNumber(Path status, String name) throws Exception {
        for (String line : Files.readAllLines(status)) {
            if (line.startsWith(name)) {
                return Long.parseLong(line.replaceAll("[^0-9]", ""));
            }
        }
        return 0;
    }

    /** Voluntary context switches of all threads that are alive. */
    private static long switches() throws Exception {
        long sum = 0;
        try (Stream<Path> tasks = Files.list(Path.of("/proc/self/task"))) {
            for (Path task : tasks.toList()) {
                try {
                    sum += statusNumber(task.resolve("status"), "voluntary_ctxt_switches:");
                } catch (java.io.IOException e) {
                    // The thread has ended.
                }
            }
        }
        return sum;
    }

    private void run() throws Exception {
        long records = number("--records", 0);
        long rate = number("--rate", 0);
        long idleMs = number("--idle-ms", 0);
        send(number("--warmup", 0), 0);
        String idle = "";
        if (idleMs > 0) {
            double cpu = cpuSeconds();
            long switches = switches();
            Thread.sleep(idleMs);
            idle = String.format(Locale.ROOT,
                ",\"idle_switches_per_s\":%.1f,\"idle_cpu_ms_per_s\":%.2f",
                (switches() - switches) * 1e3 / idleMs, (cpuSeconds() - cpu) * 1e6 / idleMs);
        }
        double cpu = cpuSeconds();
        long switches = switches();
        long start = System.nanoTime();
        send(records, rate);
        double wall = (System.nanoTime() - start) / 1e9;
        cpu = cpuSeconds() - cpu;
        switches = switches() - switches;
        Path status = Path.of("/proc/self/status");
        System.out.printf(Locale.ROOT, "{\"client\":\"java\",\"version\":\"%s\",\"records\":%d,"
            + "\"size\":%d,\"keyed\":%b,\"threads\":%d,\"producers\":%d,\"compression\":\"%s\","
            + "\"tls\":%b,\"rate\":%d,\"wall_s\":%.6f,\"rec_per_s\":%.1f,"
            + "\"cpu_us_per_rec\":%.4f,\"switches_per_s\":%.1f%s,\"process_threads\":%d,"
            + "\"max_rss_kb\":%d,\"errors\":%d}%n",
            version(), records, values[0].length, keyed, threads,
            producers.size(), option("--compression", "none"), options.containsKey("--tls-ca"),
            rate, wall, records / wall, cpu * 1e6 / records, switches / wall, idle,
            statusNumber(status, "Threads:"), statusNumber(status, "VmHWM:"), errors.sum());
        producers.forEach(KafkaProducer::close);
    }

    /** The version of the jar. The class that knows it has another package from version 4.4. */
    private static String version() throws Exception {
        String name = "/kafka/kafka-version.properties";
        Properties properties = new Properties();
        try (InputStream file = Throughput.class.getResourceAsStream(name)) {
            properties.load(file);
        }
        return properties.getProperty("version");
    }

    public static void main(String[] args) throws Exception {
        new Throughput(args).run();
    }
}
