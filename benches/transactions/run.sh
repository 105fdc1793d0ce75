#!/usr/bin/env bash
# Transactions a second of this producer, Java's and librdkafka's, in turn, at one real Kafka.
#
# Usage: run.sh [--bootstrap HOST:PORT] [--sizes "1 10 100"] [--transactions N] [--warmup N]
#               [--rounds N] [--ottla FILE]
#
# Prints a line of JSON for each run, and then a table of the medians. Without --bootstrap it starts
# a Kafka on this machine (`cargo xtask kafka`), and without --ottla it builds the command. All
# clients have their default settings, but the transactional id. The topic has one partition. Needs
# a JDK 17, Maven and Python 3. librdkafka comes from pkg-config or from Python's package
# confluent-kafka; without both, and without a C compiler, it is left out with a message.
set -euo pipefail
source "$(dirname "$0")/../common.sh"

bootstrap=""
sizes="1 10 100"
transactions=500
warmup=100
rounds=3
ottla=""
parse_options "bootstrap sizes transactions warmup rounds ottla" "$@"
[ -z "$ottla" ] || ottla=$(realpath "$ottla")

enter_project
here=benches/transactions
kafka_pid=""
# The Kafka ends when its standard input does.
trap 'exec 3>&- || true; [ -z "$kafka_pid" ] || wait "$kafka_pid" || true; rm -rf "$work"' EXIT

if [ -z "$ottla" ]; then
    cargo build --quiet --release -p ottla-cli
    ottla="$target/release/ottla"
fi
if [ -z "$bootstrap" ]; then
    mkfifo "$work/stop"
    cargo xtask kafka < "$work/stop" > "$work/bootstrap" &
    kafka_pid=$!
    exec 3> "$work/stop"
    until [ -s "$work/bootstrap" ]; do
        kill -0 "$kafka_pid" || { echo "run.sh: no Kafka has started" >&2; exit 1; }
        sleep 0.2
    done
    bootstrap=$(cat "$work/bootstrap")
fi
if ! find_jars; then
    echo "run.sh: no jars of Kafka in $target/kafka: run cargo xtask kafka once" >&2
    exit 1
fi
topic="transactions-$$"
"${java[@]}" org.apache.kafka.tools.TopicCommand --bootstrap-server "$bootstrap" --create \
    --topic "$topic" --partitions 1 > /dev/null

clients="ottla java librdkafka"
build_librdkafka "$here/transactions.c"

run_client() {
    local client=$1 records=$2
    case "$client" in
        ottla)
            "$ottla" perf -b "$bootstrap" --topic "$topic" --record-size 100 --throughput -1 \
                --num-records $((records * transactions)) \
                --warmup-records $((records * warmup)) --transaction-records "$records" --json |
                python3 -c '
import json, sys
run = json.load(sys.stdin)
line = {"client": "ottla", "version": run["version"], "records_per_transaction": int(sys.argv[1])}
for name in ["transactions", "transactions_per_s", "commit_p50_ms", "commit_p99_ms"]:
    line[name] = round(run[name], 2)
print(json.dumps(line, separators=(",", ":")))' "$records"
            ;;
        java)
            "${java[@]}" "$here/Transactions.java" "$bootstrap" "$topic" "$records" "$warmup" \
                "$transactions"
            ;;
        librdkafka)
            "$work/librdkafka" "$bootstrap" "$topic" "$records" "$warmup" "$transactions"
            ;;
    esac
}

for _ in $(seq "$rounds"); do
    for records in $sizes; do
        for client in $clients; do
            run_client "$client" "$records" | tee -a "$work/results"
        done
    done
done
python3 - "$work/results" <<'TABLE'
import json, statistics, sys

runs = {}
for line in open(sys.argv[1]):
    run = json.loads(line)
    runs.setdefault((run["records_per_transaction"], run["client"]), []).append(run)
print("\n| records | client | transactions a second | p50 of a commit | p99 |")
print("|---|---|---|---|---|")
for (records, client), same in sorted(runs.items()):
    rate, p50, p99 = (
        statistics.median(run[name] for run in same)
        for name in ["transactions_per_s", "commit_p50_ms", "commit_p99_ms"]
    )
    print(f"| {records} | {client} | {rate:,.0f} | {p50:.2f} ms | {p99:.2f} ms |")
TABLE
