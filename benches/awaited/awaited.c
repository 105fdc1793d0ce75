/*
 * librdkafka: each thread waits until its record is acknowledged. Writes a line of JSON. Arguments:
 * bootstrap servers, topic, threads, linger.ms, records, records before the measurement, bytes.
 */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "../librdkafka.h"

/* What a thread waits for, and what it measures. */
struct task {
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t completed;
    int pending, error;
    int records, errors;
    double *latencies;
};

static rd_kafka_t *producer;
static rd_kafka_topic_t *topic;
static void *value;
static size_t size;
static volatile int polling = 1;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static double cpu_seconds(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_utime.tv_sec + usage.ru_stime.tv_sec +
           (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void delivered(rd_kafka_t *rk, const rd_kafka_message_t *message, void *opaque) {
    struct task *task = message->_private;
    (void)rk;
    (void)opaque;
    pthread_mutex_lock(&task->lock);
    task->error = message->err != 0;
    task->pending = 0;
    pthread_cond_signal(&task->completed);
    pthread_mutex_unlock(&task->lock);
}

static void *poll_events(void *unused) {
    while (polling) {
        rd_kafka_poll(producer, 100);
    }
    return unused;
}

static void *send_records(void *argument) {
    struct task *task = argument;
    for (int i = 0; i < task->records; i++) {
        double start = now();
        task->pending = 1;
        /* Without a flag the value is neither copied nor freed. */
        if (rd_kafka_produce(topic, RD_KAFKA_PARTITION_UA, 0, value, size, NULL, 0, task)) {
            task->errors++;
            continue;
        }
        pthread_mutex_lock(&task->lock);
        while (task->pending) {
            pthread_cond_wait(&task->completed, &task->lock);
        }
        pthread_mutex_unlock(&task->lock);
        task->errors += task->error;
        task->latencies[i] = now() - start;
    }
    return NULL;
}

/* Sends the records from that many threads. Returns the errors, and the sorted latencies. */
static int run(int tasks, int records, double *latencies) {
    struct task *all = calloc(tasks, sizeof *all);
    double *next = latencies;
    int errors = 0;
    for (int t = 0; t < tasks; t++) {
        pthread_mutex_init(&all[t].lock, NULL);
        pthread_cond_init(&all[t].completed, NULL);
        all[t].records = records / tasks + (t < records % tasks);
        all[t].latencies = next;
        next += all[t].records;
        pthread_create(&all[t].thread, NULL, send_records, &all[t]);
    }
    for (int t = 0; t < tasks; t++) {
        pthread_join(all[t].thread, NULL);
        errors += all[t].errors;
    }
    free(all);
    qsort(latencies, records, sizeof *latencies, compare);
    return errors;
}

int main(int argc, char **argv) {
    if (argc != 8) {
        fprintf(stderr, "usage: %s BOOTSTRAP TOPIC TASKS LINGER_MS RECORDS WARMUP SIZE\n", argv[0]);
        return 2;
    }
    int tasks = atoi(argv[3]), records = atoi(argv[5]), warmup = atoi(argv[6]);
    char text[512];
    size = atoi(argv[7]);
    value = calloc(1, size + 1);
    const char *settings[][2] = {{"bootstrap.servers", argv[1]},
                                 {"linger.ms", argv[4]},
                                 {"enable.idempotence", "true"}};
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    for (int i = 0; i < 3; i++) {
        if (rd_kafka_conf_set(conf, settings[i][0], settings[i][1], text, sizeof text)) {
            fprintf(stderr, "%s\n", text);
            return 1;
        }
    }
    rd_kafka_conf_set_dr_msg_cb(conf, delivered);
    producer = rd_kafka_new(RD_KAFKA_PRODUCER, conf, text, sizeof text);
    if (!producer) {
        fprintf(stderr, "%s\n", text);
        return 1;
    }
    topic = rd_kafka_topic_new(producer, argv[2], NULL);
    pthread_t poller;
    pthread_create(&poller, NULL, poll_events, NULL);
    double *latencies = calloc(records > warmup ? records : warmup, sizeof *latencies);
    int errors = run(tasks, warmup, latencies);
    double cpu = cpu_seconds(), start = now();
    errors += run(tasks, records, latencies);
    double wall = now() - start;
    cpu = (cpu_seconds() - cpu) * 1e6 / records;
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    printf("{\"client\":\"librdkafka\",\"version\":\"%s\",\"tasks\":%d,\"linger_ms\":%s,"
           "\"records\":%d,\"wall_s\":%.6f,\"rec_per_s\":%.1f,\"cpu_us_per_rec\":%.3f,"
           "\"p50_ms\":%.4f,\"p99_ms\":%.4f,\"p999_ms\":%.4f,\"max_ms\":%.4f,"
           "\"max_rss_kb\":%ld,\"errors\":%d}\n",
           rd_kafka_version_str(), tasks, argv[4], records, wall, records / wall, cpu,
           latencies[(int)((records - 1) * 0.5)] * 1e3,
           latencies[(int)((records - 1) * 0.99)] * 1e3,
           latencies[(int)((records - 1) * 0.999)] * 1e3, latencies[records - 1] * 1e3,
           usage.ru_maxrss, errors);
    polling = 0;
    pthread_join(poller, NULL);
    free(latencies);
    rd_kafka_topic_destroy(topic);
    rd_kafka_destroy(producer);
    free(value);
    return 0;
}
