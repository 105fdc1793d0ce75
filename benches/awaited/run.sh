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
source "$(dirname "$0")/../common.sh"

bootstrap=""
topic="bench"
tasks="1 16 256"
linger="0 5"
records=10000
size=100
rounds=3
clients="round-trip ottla ottla-blocking java librdkafka franz-go krafka"
parse_options "bootstrap topic tasks linger records size rounds clients" "$@"
task_counts=$tasks
lingers=$linger

enter_project
here=benches/awaited
broker_pid=""
trap '[ -z "$broker_pid" ] || { kill "$broker_pid"; wait "$broker_pid" || true; }
    rm -rf "$work"' EXIT

cargo build --quiet --release --manifest-path "$here/Cargo.toml" --target-dir "$target/awaited"
if has_client librdkafka; then
    build_librdkafka "$here/awaited.c"
fi
if has_client franz-go; then
    build_franz_go "$here/franz-go"
fi
if has_client java; then
    build_java "$here/Awaited.java"
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
        java) "${java[@]}" Awaited "$@" ;;
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
