#!/usr/bin/env bash
# Throughput of this producer, Java's, librdkafka and franz-go, and what it costs.
#
# Usage: run.sh QUESTION [--rounds N] [--clients "ottla java"] [--scale FACTOR]
#               [--bootstrap HOST:PORT] [--tls-bootstrap HOST:PORT --tls-ca FILE]
#
#   workloads              10 B to 10 KB, keyed, lz4, zstd: 12 partitions, a thread
#   codecs                 1 KB with gzip, snappy, lz4 and zstd: 12 partitions, a thread
#   large-values           10 KB and 100 KB, batch.size=1000000, 64 MiB of buffer: 12 partitions
#   tls                    100 B and 1 KB, without TLS and with TLS 1.3
#   callers                1, 2, 4 and 8 threads that share a producer; for Ottla also 1,000 tasks
#   producers              100 producers in a process: idle, 100 records a second, full speed
#   partitions             1,000 and 10,000 partitions, keyed; Ottla also with 320 MiB of buffer,
#                          Java with buffer.memory.allocation.strategy=incremental (Kafka 4.4)
#   large-batches          20 and 200 partitions, keyed: batch.size=1000000, 64 MiB of buffer
#   compressed-partitions  500 partitions, keyed, lz4 and zstd
#
# Prints a line of JSON for each run, and then a table of the medians. Each run has a fresh sink: a
# broker on this machine that only acknowledges. Its counts show lost records, in the column errors.
# With --bootstrap there is no sink. Kafka's own tool then creates the topics throughput-N with N
# partitions; without the jars of Kafka they must exist. --scale multiplies the numbers of records.
#
# All clients: batch.size=16384, linger.ms=5, acks=all, idempotent, 5 requests in flight, 32 MiB of
# buffer (1 MiB for each of 100 producers), keys by murmur2, if the question says nothing else.
# Other settings have each client's default: sockets of Java's producer have a send buffer of 128
# KiB, and those of the others grow. "MB at most" includes the values, 67 MB at 100 KB. Java has 1
# GB of heap; it needs a JDK 17 and the jars that `cargo xtask kafka` fetches. franz-go needs Go.
# librdkafka comes from pkg-config or from Python's package confluent-kafka. Two of Ottla's three
# TLS providers need a C compiler. A client that lacks a program is left out with a message.
set -euo pipefail
source "$(dirname "$0")/../common.sh"

question=${1:-}
rounds=3
clients="ottla java librdkafka franz-go"
scale=1
bootstrap=""
tls_bootstrap=""
tls_ca=""
case "$question" in
    workloads | tls | callers | producers | partitions) shift ;;
    large-batches | large-values | codecs | compressed-partitions) shift ;;
    *) usage ;;
esac
parse_options "rounds clients scale bootstrap tls_bootstrap tls_ca" "$@"
[ -z "$tls_ca" ] || tls_ca=$(realpath "$tls_ca")

enter_project
here=benches/throughput

# start_sink PARTITIONS TLS: sets $address.
start_sink() {
    local options=(--topic "throughput-$1" --partitions "$1")
    [ "$2" = plain ] || options+=(--tls-ca "$work/ca.pem")
    : > "$work/sink"
    "$target/throughput/release/sink" "${options[@]}" >> "$work/sink" &
    sink_pid=$!
    until [ -s "$work/sink" ]; do
        kill -0 "$sink_pid" || { echo "run.sh: the sink has not started" >&2; exit 1; }
        sleep 0.05
    done
    address=$(head -1 "$work/sink")
}

# Its last line of output has the counts.
stop_sink() {
    [ -n "$sink_pid" ] || return 0
    kill "$sink_pid"
    wait "$sink_pid" || true
    sink_pid=""
}

create_topic() {
    find_jars || return 0
    "${java[@]}" org.apache.kafka.tools.TopicCommand --bootstrap-server "$bootstrap" --create \
        --if-not-exists --topic "throughput-$1" --partitions "$1" > /dev/null
}

# Sets $driver to the command of a client.
set_driver() {
    case "$1" in
        java*) driver=("${java[@]}" -Xmx1g Throughput) ;;
        librdkafka | franz-go) driver=("$work/$1") ;;
        *) driver=("$target/throughput/release/ottla") ;;
    esac
    case "$1" in
        java-incremental) driver+=(--allocation-strategy incremental) ;;
        ottla-tasks) driver+=(--tasks 1000) ;;
        ottla-320MiB) driver+=(--buffer-memory 335544320) ;;
        ottla-*) driver+=(--tls-provider "${1#ottla-}") ;;
    esac
}

# run_client CLIENT WORKLOAD PARTITIONS plain|tls RECORDS WARMUP SIZE [OPTION]...
run_client() {
    local client=$1 workload=$2 partitions=$3 security=$4 records=$5 warmup=$6 size=$7 ca
    shift 7
    if [ -z "$bootstrap" ]; then
        start_sink "$partitions" "$security"
        ca=$work/ca.pem
    elif [ "$security" = plain ]; then
        address=$bootstrap
    elif [ -n "$tls_bootstrap" ] && [ -n "$tls_ca" ]; then
        address=$tls_bootstrap
        ca=$tls_ca
    else
        echo "run.sh: $workload is left out: it needs --tls-bootstrap and --tls-ca" >&2
        return
    fi
    [ -s "$work/values-$size" ] || python3 "$here/results.py" values "$size" > "$work/values-$size"
    records=$(python3 -c "print(round($records * $scale))")
    warmup=$(python3 -c "print(round($warmup * $scale))")
    local options=(--bootstrap "$address" --topic "throughput-$partitions" --records "$records"
        --warmup "$warmup" --values "$work/values-$size" --size "$size")
    [ "$security" = plain ] || options+=(--tls-ca "$ca")
    set_driver "$client"
    # A client that fails or hangs has no result, and the others go on.
    timeout 600 "${driver[@]}" "${options[@]}" "$@" > "$work/run" ||
        echo "run.sh: $client failed: $workload" >&2
    if [ -n "$sink_pid" ]; then
        stop_sink
        tail -n +2 "$work/sink" >> "$work/run"
    fi
    python3 "$here/results.py" line "$client" "$workload" "$warmup" < "$work/run" |
        tee -a "$work/results"
}

# run_variants CLIENT "VARIANTS" WORKLOAD ...: as run_client for the variants, if CLIENT is there.
run_variants() {
    local client=$1 variants=$2 variant
    shift 2
    has_client "$client" || return 0
    for variant in $variants; do
        run_client "$variant" "$@"
    done
}

# run_all WORKLOAD PARTITIONS ...: as run_client, for all clients.
run_all() {
    local client
    for client in $clients; do
        run_client "$client" "$@"
    done
}

# run_tls WORKLOAD ...: as run_all, with each cryptography provider of Ottla.
run_tls() {
    local client variants
    for client in $clients; do
        variants=$client
        [ "$client" != ottla ] || variants="ottla-graviola ottla-ring ottla-aws-lc-rs"
        run_variants "$client" "$variants" "$@"
    done
}

run_question() {
    local threads partitions codec records load
    case "$question" in
        workloads)
            run_all "10 B" 12 plain 8000000 1500000 10
            run_all "100 B" 12 plain 5000000 1000000 100
            run_all "1 KB" 12 plain 2000000 300000 1024
            run_all "10 KB" 12 plain 200000 50000 10240
            run_all "100 B, keyed" 12 plain 4000000 1000000 100 --keyed true
            run_all "1 KB, lz4" 12 plain 1000000 200000 1024 --compression lz4
            run_all "1 KB, zstd" 12 plain 600000 100000 1024 --compression zstd
            ;;
        codecs)
            for codec in gzip snappy lz4 zstd; do
                records=1000000
                [ "$codec" != gzip ] || records=200000
                run_all "1 KB, $codec" 12 plain "$records" "$((records / 5))" 1024 \
                    --compression "$codec"
            done
            ;;
        large-values)
            load=(--batch-size 1000000 --buffer-memory 67108864)
            run_all "10 KB" 12 plain 200000 50000 10240 "${load[@]}"
            run_all "100 KB" 12 plain 30000 6000 102400 "${load[@]}"
            ;;
        tls)
            run_all "100 B" 12 plain 5000000 1000000 100
            run_tls "100 B, TLS" 12 tls 4000000 1000000 100
            run_all "1 KB" 12 plain 2000000 300000 1024
            run_tls "1 KB, TLS" 12 tls 1000000 200000 1024
            ;;
        callers)
            for threads in 1 2 4 8; do
                run_all "100 B, $threads threads" 12 plain 4000000 1000000 100 --threads "$threads"
            done
            run_variants ottla ottla-tasks "100 B, 1,000 tasks" 12 plain 4000000 1000000 100
            ;;
        producers)
            run_all "100 producers, 100 records/s" 12 plain 1000 1000 100 \
                --producers 100 --buffer-memory 1048576 --rate 100 --idle-ms 5000
            run_all "100 producers, full speed" 12 plain 3000000 1000000 100 \
                --producers 100 --buffer-memory 1048576
            ;;
        partitions)
            for partitions in 1000 10000; do
                load=("100 B, keyed, $partitions partitions" "$partitions" plain
                    3000000 1000000 100 --keyed true)
                run_all "${load[@]}"
                run_variants ottla ottla-320MiB "${load[@]}"
                run_variants java java-incremental "${load[@]}"
            done
            ;;
        large-batches)
            for partitions in 20 200; do
                load=("100 B, keyed, $partitions partitions, 1 MB" "$partitions" plain
                    3000000 1000000 100 --keyed true
                    --batch-size 1000000 --buffer-memory 67108864)
                run_all "${load[@]}"
                run_variants java java-incremental "${load[@]}"
            done
            ;;
        compressed-partitions)
            for codec in lz4 zstd; do
                run_all "1 KB, keyed, 500 partitions, $codec" 500 plain 600000 150000 1024 \
                    --keyed true --compression "$codec"
            done
            ;;
    esac
}

sink_pid=""
trap 'stop_sink; rm -rf "$work"' EXIT
cargo build --quiet --release --manifest-path "$here/Cargo.toml" --target-dir "$target/throughput"
if has_client librdkafka; then
    build_librdkafka "$here/throughput.c"
fi
if has_client franz-go; then
    build_franz_go "$here/franz-go"
fi
if has_client java; then
    build_java "$here/Throughput.java"
fi
if [ -n "$bootstrap" ]; then
    case "$question" in
        partitions) create_topic 1000; create_topic 10000 ;;
        large-batches) create_topic 20; create_topic 200 ;;
        compressed-partitions) create_topic 500 ;;
        *) create_topic 12 ;;
    esac
fi
for _ in $(seq "$rounds"); do
    run_question
done
python3 "$here/results.py" table < "$work/results"
