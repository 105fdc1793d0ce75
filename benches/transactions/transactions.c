/*
 * Commits transactions with librdkafka, and writes a line of JSON. Arguments: bootstrap servers,
 * topic, records of a transaction, transactions before the measurement, transactions of it.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "../librdkafka.h"

#define RECORD_BYTES 100
#define TIMEOUT_MS 60000

static void check(rd_kafka_error_t *error, const char *call) {
    if (error) {
        fprintf(stderr, "%s: %s\n", call, rd_kafka_error_string(error));
        exit(1);
    }
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv) {
    if (argc != 6) {
        fprintf(stderr, "usage: %s BOOTSTRAP TOPIC RECORDS WARMUP TRANSACTIONS\n", argv[0]);
        return 2;
    }
    int records = atoi(argv[3]), warmup = atoi(argv[4]), count = atoi(argv[5]);
    char text[512], id[64], value[RECORD_BYTES] = {0};
    snprintf(id, sizeof id, "bench-librdkafka-%d", (int)getpid());
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    const char *settings[][2] = {{"bootstrap.servers", argv[1]}, {"transactional.id", id}};
    for (int i = 0; i < 2; i++) {
        if (rd_kafka_conf_set(conf, settings[i][0], settings[i][1], text, sizeof text)) {
            fprintf(stderr, "%s\n", text);
            return 1;
        }
    }
    rd_kafka_t *producer = rd_kafka_new(RD_KAFKA_PRODUCER, conf, text, sizeof text);
    if (!producer) {
        fprintf(stderr, "%s\n", text);
        return 1;
    }
    rd_kafka_topic_t *topic = rd_kafka_topic_new(producer, argv[2], NULL);
    check(rd_kafka_init_transactions(producer, TIMEOUT_MS), "init_transactions");
    double *commits = calloc(count, sizeof *commits);
    double start = 0;
    for (int i = -warmup; i < count; i++) {
        if (i == 0) {
            start = now();
        }
        check(rd_kafka_begin_transaction(producer), "begin_transaction");
        for (int k = 0; k < records; k++) {
            if (rd_kafka_produce(topic, RD_KAFKA_PARTITION_UA, RD_KAFKA_MSG_F_COPY, value,
                                 sizeof value, NULL, 0, NULL)) {
                fprintf(stderr, "produce failed\n");
                return 1;
            }
        }
        double commit_start = now();
        check(rd_kafka_commit_transaction(producer, TIMEOUT_MS), "commit_transaction");
        if (i >= 0) {
            commits[i] = now() - commit_start;
        }
    }
    double seconds = now() - start;
    qsort(commits, count, sizeof *commits, compare);
    printf("{\"client\":\"librdkafka\",\"version\":\"%s\",\"records_per_transaction\":%d,"
           "\"transactions\":%d,\"transactions_per_s\":%.1f,\"commit_p50_ms\":%.2f,"
           "\"commit_p99_ms\":%.2f}\n",
           rd_kafka_version_str(), records, count, count / seconds, commits[count / 2] * 1e3,
           commits[(int)(count * 0.99)] * 1e3);
    free(commits);
    rd_kafka_topic_destroy(topic);
    rd_kafka_destroy(producer);
    return 0;
}
