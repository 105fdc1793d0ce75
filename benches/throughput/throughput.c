/*
 * librdkafka: each thread calls rd_kafka_produce without copying the value, and waits while the
 * queue is full. A thread for each producer polls the delivery reports. Writes a line of JSON.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "../librdkafka.h"

struct producer {
    rd_kafka_t *handle;
    rd_kafka_topic_t *topic;
    pthread_t poller;
};

struct usage {
    double wall, cpu;
    long switches;
};

static const char *bootstrap = "", *topic = "bench", *values_file = "", *compression = "none";
static const char *tls_ca;
static long records, warmup, size, threads = 1, producer_count = 1, rate, idle_ms;
static long batch_size = 16384, buffer_memory = 32 << 20, value_count;
static int keyed;
static char *values;
static struct producer *producers;
static atomic_long errors;
static atomic_int polling = 1;

static struct usage usage_now(void) {
    struct rusage usage;
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    getrusage(RUSAGE_SELF, &usage);
    return (struct usage){t.tv_sec + t.tv_nsec / 1e9,
                          usage.ru_utime.tv_sec + usage.ru_stime.tv_sec +
                              (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6,
                          usage.ru_nvcsw};
}

static struct usage usage_since(struct usage start) {
    struct usage end = usage_now();
    return (struct usage){end.wall - start.wall, end.cpu - start.cpu,
                          end.switches - start.switches};
}

static long status_number(const char *name) {
    char line[256];
    long number = 0;
    FILE *status = fopen("/proc/self/status", "r");
    while (status && fgets(line, sizeof line, status)) {
        if (!strncmp(line, name, strlen(name))) {
            number = atol(line + strlen(name));
        }
    }
    if (status) {
        fclose(status);
    }
    return number;
}

static void delivered(rd_kafka_t *rk, const rd_kafka_message_t *message, void *opaque) {
    (void)rk;
    (void)opaque;
    if (message->err && atomic_fetch_add(&errors, 1) == 0) {
        fprintf(stderr, "librdkafka: %s\n", rd_kafka_err2str(message->err));
    }
}

static void *poll_events(void *argument) {
    struct producer *producer = argument;
    while (atomic_load(&polling)) {
        rd_kafka_poll(producer->handle, 1000);
    }
    return NULL;
}

struct load {
    pthread_t thread;
    long first, count, rate;
    double start;
};

static void sleep_until(double due) {
    struct timespec t = {(time_t)due, (long)((due - (time_t)due) * 1e9)};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL)) {
    }
}

static void *send_from_thread(void *argument) {
    struct load *load = argument;
    for (long i = load->first; i < load->count; i += threads) {
        if (load->rate) {
            /* All records of a millisecond are due at its start. */
            sleep_until(load->start + (double)(i * 1000 / load->rate) / 1e3);
        }
        uint64_t key = __builtin_bswap64((uint64_t)i * 0x9E3779B97F4A7C15u);
        struct producer *producer = &producers[i % producer_count];
        if (rd_kafka_produce(producer->topic, RD_KAFKA_PARTITION_UA, RD_KAFKA_MSG_F_BLOCK,
                             values + i % value_count * size, size, keyed ? &key : NULL,
                             keyed ? sizeof key : 0, NULL)) {
            atomic_fetch_add(&errors, 1);
        }
    }
    return NULL;
}

/* Sends the records from all threads, and waits until they are acknowledged. */
static void send_records(long count, long at_rate) {
    struct load *loads = calloc(threads, sizeof *loads);
    double start = usage_now().wall;
    for (long t = 0; t < threads; t++) {
        loads[t] = (struct load){.first = t, .count = count, .rate = at_rate, .start = start};
        if (t > 0) {
            pthread_create(&loads[t].thread, NULL, send_from_thread, &loads[t]);
        }
    }
    send_from_thread(&loads[0]);
    for (long t = 1; t < threads; t++) {
        pthread_join(loads[t].thread, NULL);
    }
    for (long p = 0; p < producer_count; p++) {
        while (rd_kafka_flush(producers[p].handle, 1000)) {
        }
    }
    free(loads);
}

static void start_producer(struct producer *producer) {
    char text[512], queue_kbytes[32], batch_bytes[32];
    snprintf(batch_bytes, sizeof batch_bytes, "%ld", batch_size);
    snprintf(queue_kbytes, sizeof queue_kbytes, "%ld", buffer_memory / 1024);
    const char *settings[][2] = {{"bootstrap.servers", bootstrap},
                                 {"acks", "all"},
                                 {"enable.idempotence", "true"},
                                 {"max.in.flight.requests.per.connection", "5"},
                                 {"batch.size", batch_bytes},
                                 {"batch.num.messages", "1000000"},
                                 {"linger.ms", "5"},
                                 {"queue.buffering.max.kbytes", queue_kbytes},
                                 {"queue.buffering.max.messages", "0"},
                                 {"compression.type", compression},
                                 {"partitioner", "murmur2_random"},
                                 {"security.protocol", tls_ca ? "ssl" : "plaintext"},
                                 {"ssl.ca.location", tls_ca}};
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
        if (settings[i][1] &&
            rd_kafka_conf_set(conf, settings[i][0], settings[i][1], text, sizeof text)) {
            fprintf(stderr, "librdkafka: %s\n", text);
            exit(1);
        }
    }
    rd_kafka_conf_set_dr_msg_cb(conf, delivered);
    producer->handle = rd_kafka_new(RD_KAFKA_PRODUCER, conf, text, sizeof text);
    if (!producer->handle) {
        fprintf(stderr, "librdkafka: %s\n", text);
        exit(1);
    }
    producer->topic = rd_kafka_topic_new(producer->handle, topic, NULL);
    pthread_create(&producer->poller, NULL, poll_events, producer);
}

static void read_values(void) {
    FILE *file = fopen(values_file, "rb");
    if (!file || size <= 0) {
        fprintf(stderr, "librdkafka: --values FILE and --size BYTES are needed\n");
        exit(2);
    }
    fseek(file, 0, SEEK_END);
    value_count = ftell(file) / size;
    rewind(file);
    values = malloc(value_count * size);
    if (fread(values, size, value_count, file) != (size_t)value_count) {
        perror(values_file);
        exit(1);
    }
    fclose(file);
}

static void parse_options(int argc, char **argv) {
    static const char *names[] = {"records", "warmup", "size", "threads", "producers",
                                  "rate", "idle-ms", "batch-size", "buffer-memory"};
    static long *numbers[] = {&records, &warmup, &size, &threads, &producer_count,
                              &rate, &idle_ms, &batch_size, &buffer_memory};
    static const char *text_names[] = {"bootstrap", "topic", "values", "compression", "tls-ca"};
    static const char **texts[] = {&bootstrap, &topic, &values_file, &compression, &tls_ca};
    for (int i = 1; i + 1 < argc; i += 2) {
        int is_known = 0;
        const char *name = strncmp(argv[i], "--", 2) ? "" : argv[i] + 2;
        for (size_t n = 0; n < sizeof names / sizeof *names; n++) {
            if (!strcmp(name, names[n])) {
                *numbers[n] = atol(argv[i + 1]);
                is_known = 1;
            }
        }
        for (size_t n = 0; n < sizeof text_names / sizeof *text_names; n++) {
            if (!strcmp(name, text_names[n])) {
                *texts[n] = argv[i + 1];
                is_known = 1;
            }
        }
        if (!strcmp(name, "keyed")) {
            keyed = !strcmp(argv[i + 1], "true");
            is_known = 1;
        }
        if (!is_known) {
            fprintf(stderr, "librdkafka: %s is unknown\n", argv[i]);
            exit(2);
        }
    }
}

int main(int argc, char **argv) {
    parse_options(argc, argv);
    read_values();
    producers = calloc(producer_count, sizeof *producers);
    for (long p = 0; p < producer_count; p++) {
        start_producer(&producers[p]);
    }
    send_records(warmup, 0);
    char idle[128] = "";
    if (idle_ms > 0) {
        struct usage start = usage_now();
        usleep(idle_ms * 1000);
        struct usage used = usage_since(start);
        snprintf(idle, sizeof idle, ",\"idle_switches_per_s\":%.1f,\"idle_cpu_ms_per_s\":%.2f",
                 used.switches / used.wall, used.cpu * 1e3 / used.wall);
    }
    struct usage start = usage_now();
    send_records(records, rate);
    struct usage used = usage_since(start);
    printf("{\"client\":\"librdkafka\",\"version\":\"%s\",\"records\":%ld,\"size\":%ld,"
           "\"keyed\":%s,\"threads\":%ld,\"producers\":%ld,\"compression\":\"%s\",\"tls\":%s,"
           "\"rate\":%ld,\"wall_s\":%.6f,\"rec_per_s\":%.1f,\"cpu_us_per_rec\":%.4f,"
           "\"switches_per_s\":%.1f%s,\"process_threads\":%ld,\"max_rss_kb\":%ld,"
           "\"errors\":%ld}\n",
           rd_kafka_version_str(), records, size, keyed ? "true" : "false", threads,
           producer_count, compression, tls_ca ? "true" : "false", rate, used.wall,
           records / used.wall, used.cpu * 1e6 / records, used.switches / used.wall, idle,
           status_number("Threads:"), status_number("VmHWM:"), atomic_load(&errors));
    atomic_store(&polling, 0);
    for (long p = 0; p < producer_count; p++) {
        pthread_join(producers[p].poller, NULL);
        rd_kafka_topic_destroy(producers[p].topic);
        rd_kafka_destroy(producers[p].handle);
    }
    free(producers);
    free(values);
    return 0;
}
