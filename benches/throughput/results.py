"""Values, lines and tables of the runs.

values SIZE                  writes values of this size, the same in each run
line CLIENT WORKLOAD WARMUP  reads the line of a driver and the counts of the sink, writes a line
table                        reads such lines, writes the medians as a table in Markdown
"""

import json
import random
import statistics
import sys

VALUES = 4096
MAX_FILE_BYTES = 64 << 20


def values(size):
    """Log lines in JSON: their batches compress as those of real logs do, to about a third."""
    rng = random.Random(size)
    words = "user order payment cart session timeout retry accepted shipped declined cache".split()
    for number in range(min(VALUES, MAX_FILE_BYTES // size)):
        line = f'{{"time":{1700000000 + number},"host":"app-{rng.randrange(40)}"'
        while len(line) < size:
            line += (f',"event":"{rng.choice(words)} {rng.choice(words)}"'
                     f',"id":"{rng.getrandbits(64):016x}","ms":{rng.randrange(5000)}')
        sys.stdout.write(line[: size - 1] + "}")


def line(client, workload, warmup):
    results = [json.loads(text) for text in sys.stdin]
    runs = [result for result in results if "client" in result]
    sinks = [result for result in results if "client" not in result]
    run = {**(runs[0] if runs else {"records": 0}), "client": client, "workload": workload}
    if not runs:
        run["failed"] = True
    elif sinks:
        run["sink"] = sinks[0]
        run["lost"] = run["records"] + int(warmup) - sinks[0]["records"]
        run["bytes_per_rec"] = sinks[0]["bytes"] / max(sinks[0]["records"], 1)
    print(json.dumps(run, separators=(",", ":")))


COLUMNS = [
    ("records/s", "rec_per_s", 1, ",.0f"),
    ("CPU µs a record", "cpu_us_per_rec", 1, ",.3f"),
    ("bytes a record", "bytes_per_rec", 1, ",.0f"),
    ("MB at most", "max_rss_kb", 1e-3, ",.0f"),
    ("threads", "process_threads", 1, ".0f"),
    ("switches/s", "switches_per_s", 1, ",.0f"),
    ("idle: switches/s", "idle_switches_per_s", 1, ",.0f"),
    ("idle: CPU ms/s", "idle_cpu_ms_per_s", 1, ".2f"),
]


def table():
    workloads = {}
    for text in sys.stdin:
        run = json.loads(text)
        workloads.setdefault(run["workload"], {}).setdefault(run["client"], []).append(run)
    all_runs = [run for clients in workloads.values() for same in clients.values() for run in same]
    columns = [c for c in COLUMNS if any(c[1] in run for run in all_runs)]
    print("\n| workload | client |", " | ".join(c[0] for c in columns), "| errors |")
    print("|---|---|" + "---:|" * (len(columns) + 1))
    for workload, clients in workloads.items():
        for client, same in clients.items():
            cells = []
            for _, name, factor, form in columns:
                numbers = [run[name] for run in same if name in run]
                cells.append(format(statistics.median(numbers) * factor, form) if numbers else "")
            errors = sum(run.get("errors", 0) + abs(run.get("lost", 0)) for run in same)
            failed = sum("failed" in run for run in same)
            cells.append(f"{errors}" + (f", {failed} runs failed" if failed else ""))
            print(f"| {workload} | {client} |", " | ".join(cells), "|")


if __name__ == "__main__":
    command, arguments = sys.argv[1], sys.argv[2:]
    if command == "values":
        values(int(arguments[0]))
    else:
        {"line": line, "table": table}[command](*arguments)
