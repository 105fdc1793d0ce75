#!/bin/bash
# Makes the pictures of docs/: the screen in MONITORING.md and the reports in pictures/, from real
# runs against BOOTSTRAP, or against a development cluster of three nodes.
#
# Usage: docs/pictures.sh [BOOTSTRAP]
# Needs tmux and chromium, and the command: $OTTLA, or target/release/ottla.
set -euo pipefail
cd "$(dirname "$0")/.."
ottla=${OTTLA:-$PWD/target/release/ottla}
work=$(mktemp -d)
pids=()
trap 'for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done; rm -rf "$work"' EXIT

if [ $# -gt 0 ]; then
    servers=$1
else
    "$ottla" broker --listen 127.0.0.1:0 --nodes 3 --topic orders:12 >"$work/broker" &
    pids+=($!)
    until [ -s "$work/broker" ]; do sleep 0.1; done
    servers=$(head -n 1 "$work/broker")
fi

perf() {
    "$ottla" perf -b "$servers" --topic orders --payload-file "$work/values" "$@"
}
# Lines of text, which compress as records of applications do.
cat docs/*.md | grep -E '.{60,}' >"$work/values"

# The view, after it has run for some seconds.
export LC_ALL=C.UTF-8
socket=ottla-pictures-$$
tmux -L $socket -f /dev/null new-session -d -x 80 -y 24 \
    "'$ottla' perf -b '$servers' --topic orders --payload-file '$work/values' --live \
     --num-records 100000000 --throughput -1 --command-property linger.ms=20 \
     compression.type=zstd max.in.flight.requests.per.connection=1"
sleep 12
tmux -L $socket capture-pane -p >"$work/screen"
tmux -L $socket kill-server
awk -v screen="$work/screen" '
    /<!-- screen: docs\/pictures.sh -->/ {
        print; print "```text"
        while ((getline line < screen) > 0) { sub(/ +$/, "", line); print line }
        print "```"; skipping = 1; next
    }
    skipping && /^```$/ { skipping = 0; next }
    !skipping
' docs/MONITORING.md >"$work/page"
cat "$work/page" >docs/MONITORING.md

# A report, a comparison and a sweep.
mkdir -p docs/pictures
for linger in 0 20; do
    perf --num-records 600000 --throughput 40000 --reporting-interval 5000 \
        --command-property linger.ms=$linger compression.type=lz4 \
        --report-name "linger.ms=$linger" --report "$work/$linger.html" --report "$work/$linger.json"
done
"$ottla" perf --compare "$work/0.json" "$work/20.json" --report "$work/compare.html"
"$ottla" perf -b "$servers" --topic orders --record-size 200 --report "$work/sweep.html" \
    --report-name "200 bytes" --sweep 10000..1000000 --sweep-seconds 5 --sweep-p99 20

# shoot PAGE NAME HEIGHT SCHEME: 1 is light, 0 is dark.
shoot() {
    chromium --headless --no-sandbox --disable-gpu --hide-scrollbars \
        --user-data-dir="$work/profile" --window-size="1200,$3" \
        --blink-settings=preferredColorScheme="$4" --screenshot="docs/pictures/$2.png" \
        "file://$work/$1.html" >"$work/chromium" 2>&1 || { cat "$work/chromium"; exit 1; }
}
shoot 20 report-light 1140 1
shoot 20 report-dark 1140 0
shoot compare compare 1190 1
shoot sweep sweep 850 1
