#!/usr/bin/env bash
# Awaited sends: each task sends one record and waits until it is acknowledged before the next one.
# This producer, Java's, librdkafka, franz-go and krafka at one broker; and `round-trip`,
# which writes the same request and reads the response without a client.
#
# Usage: run.sh [--bootstrap HOST:PORT] [--topic T] [--tasks "1 16 256"] [--linger "0 5"]
#               [--records N] [--size BYTES] [--rounds N] [--clients "ottla java"]
#
# Prints a line of JSON for each run, and then a table of the medians. --records is the number of
# a run with one task; other runs send more. Without --bootstrap it starts the embedded broker.
# Other settings have their defaults, and all clients are idempotent. Java needs a JDK 17 and the
# jars that `cargo xtask kafka` fetches. franz-go needs Go. librdkafka comes from pkg-config or from
# Python's package confluent-kafka. A client that lacks a program is left out with a message.
set -euo pipefail

bootstrap=""
topic="bench"
task_counts="1 16 256"
lingers="0 5"
records=10000
size=100
rounds=3
clients="round-trip ottla ottla-blocking java librdkafka franz-go krafka"
while [ $# -gt 0 ]; do
    case "$1" in
        --bootstrap) bootstrap=$2 ;;
        --topic) topic=$2 ;;
        --tasks) task_counts=$2 ;;
        --linger) lingers=$2 ;;
        --records) records=$2 ;;
        --size) size=$2 ;;
        --rounds) rounds=$2 ;;
        --clients) clients=$2 ;;
        *) sed -n '2,/^set /p' "$0" | grep '^#' >&2; exit 2 ;;
    esac
    shift 2
done

cd "$(dirname "$0")/../.."
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
here=benches/awaited
work=$(mktemp -d)
broker_pid=""
trap '[ -z "$broker_pid" ] || { kill "$broker_pid"; wait "$broker_pid" || true; }
    rm -rf "$work"' EXIT

has_client() {
    [[ " $clients " == *" $1 "* ]]
}

leave_out() {
    echo "run.sh: $1 is left out: $2" >&2
    local remaining=""
    for client in $clients; do
        [ "$client" = "$1" ] || remaining="$remaining $client"
    done
    clients=$remaining
}

# Builds the driver of librdkafka. Fails if a part is missing.
build_librdkafka() {
    command -v cc > /dev/null || return 1
    if pkg-config --exists rdkafka 2> /dev/null; then
        # shellcheck disable=SC2046
        cc -O2 -pthread -o "$work/librdkafka" "$here/awaited.c" \
            $(pkg-config --cflags --libs rdkafka)
        return
    fi
    local packages="$target/python/bench"
    if [ ! -d "$packages" ]; then
        python3 -m pip install -q --disable-pip-version-check --target "$packages.new" \
            confluent-kafka==2.16.1 || return 1
        mv "$packages.new" "$packages"
    fi
    local library
    library=$(find -L "$packages" -name 'librdkafka*.so*' | head -1)
    [ -n "$library" ] || return 1
    cc -O2 -pthread -o "$work/librdkafka" "$here/awaited.c" "$library" \
        "-Wl,-rpath,$(dirname "$library")"
}

cargo build --quiet --release --manifest-path "$here/Cargo.toml" --target-dir "$target/awaited"
if has_client librdkafka; then
    build_librdkafka || leave_out librdkafka "it needs cc, and librdkafka-dev or pip"
fi
if has_client franz-go; then
    (cd "$here/franz-go" && go build -o "$work/franz-go" .) || leave_out franz-go "it needs Go"
fi
if has_client java; then
    jars=$(find -L "$target/kafka" -maxdepth 1 -name 'libs-4.*' -type d 2> /dev/null |
        sort -V | tail -1)
    if [ -z "$jars" ] || ! javac -cp "$jars/*" -d "$work" "$here/Awaited.java"; then
        leave_out java "it needs a JDK 17 and $target/kafka/libs-4.*: run cargo xtask kafka once"
    fi
fi
if [ -z "$bootstrap" ]; then
    cargo build --quiet --release -p ottla-cli
    "$target/release/ottla" broker --listen 127.0.0.1:0 --topic "$topic:12" > "$work/broker" &
    broker_pid=$!
    until bootstrap=$(grep -oE '127\.0\.0\.1:[0-9]+' "$work/broker" | head -1) &&
        [ -n "$bootstrap" ]; do
        kill -0 "$broker_pid" || { echo "run.sh: the broker has not started" >&2; exit 1; }
        sleep 0.1
    done
fi

run_client() {
    local client=$1
    shift
    case "$client" in
        java) java -Dorg.slf4j.simpleLogger.defaultLogLevel=error -cp "$work:$jars/*" Awaited "$@" ;;
        librdkafka | franz-go) "$work/$client" "$@" ;;
        *) "$target/awaited/release/$client" "$@" ;;
    esac
}

for _ in $(seq "$rounds"); do
    for tasks in $task_counts; do
        # More tasks send more in the same time, but not in proportion.
        count=$((records * (tasks < 16 ? 1 : tasks < 128 ? 4 : 10)))
        for linger in $lingers; do
            for client in $clients; do
                run_client "$client" "$bootstrap" "$topic" "$tasks" "$linger" "$count" \
                    $((count / 4)) "$size" | tee -a "$work/results"
            done
        done
    done
done
python3 - "$work/results" <<'TABLE'
import json, statistics, sys

runs = {}
for line in open(sys.argv[1]):
    run = json.loads(line)
    runs.setdefault((run["tasks"], run["linger_ms"]), {}).setdefault(run["client"], []).append(run)
print("\n| tasks | linger ms | client | p50 µs | p99 µs | records/s | CPU µs a record | errors |")
print("|---:|---:|---|---:|---:|---:|---:|---:|")
for (tasks, linger), clients in runs.items():
    for client, same in clients.items():
        median = lambda name: statistics.median(run[name] for run in same)
        print(f"| {tasks} | {linger} | {client} | {median('p50_ms') * 1e3:,.0f} | "
              f"{median('p99_ms') * 1e3:,.0f} | {median('rec_per_s'):,.0f} | "
              f"{median('cpu_us_per_rec'):.1f} | {sum(run['errors'] for run in same)} |")
TABLE
