//! What the drivers in Rust share: their arguments, the measurement, and the line of JSON.

use std::fs;
use std::future::Future;
use std::time::Instant;

use tokio::runtime::{Builder, Runtime};

/// The arguments, in this order.
#[derive(Debug, Clone)]
pub struct Args {
    /// `HOST:PORT` of a broker.
    pub bootstrap: String,
    pub topic: String,
    /// How many tasks send at once.
    pub tasks: usize,
    /// `linger.ms`.
    pub linger_ms: u64,
    /// Records to measure, of all tasks together.
    pub records: usize,
    /// Records before.
    pub warmup: usize,
    /// Bytes of a value.
    pub size: usize,
}

impl Args {
    /// Reads the arguments of the process.
    pub fn parse() -> Args {
        let args: Vec<String> = std::env::args().skip(1).collect();
        let [bootstrap, topic, tasks, linger_ms, records, warmup, size] = &args[..] else {
            eprintln!("usage: BOOTSTRAP TOPIC TASKS LINGER_MS RECORDS WARMUP SIZE");
            std::process::exit(2);
        };
        let number = |text: &String| {
            text.parse::<usize>().unwrap_or_else(|e| {
                eprintln!("{text}: {e}");
                std::process::exit(2);
            })
        };
        Args {
            bootstrap: bootstrap.clone(),
            topic: topic.clone(),
            tasks: number(tasks),
            linger_ms: number(linger_ms) as u64,
            records: number(records),
            warmup: number(warmup),
            size: number(size),
        }
    }

    /// Returns how many of `records` task `t` sends.
    fn share(&self, records: usize, t: usize) -> usize {
        records / self.tasks + usize::from(t < records % self.tasks)
    }
}

/// Returns a runtime with two worker threads.
pub fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("start a runtime")
}

/// Runs the warm-up and the measurement, each with one task for each `spawn`, and prints the line.
///
/// `send` sends one record and returns when it is acknowledged.
pub fn measure_tasks<F, S>(client: &str, version: &str, args: &Args, runtime: &Runtime, send: S)
where
    F: Future<Output = bool> + Send,
    S: Fn() -> F + Clone + Send + 'static,
{
    measure(client, version, args, |records| {
        let tasks: Vec<_> = (0..args.tasks)
            .map(|t| {
                let (send, count) = (send.clone(), args.share(records, t));
                runtime.spawn(async move {
                    let mut run = Run::default();
                    for _ in 0..count {
                        let start = Instant::now();
                        let acknowledged = send().await;
                        run.add(start, acknowledged);
                    }
                    run
                })
            })
            .collect();
        runtime.block_on(async {
            let mut all = Run::default();
            for task in tasks {
                all.append(task.await.expect("a task panicked"));
            }
            all
        })
    });
}

/// As [`measure_tasks`], with a thread for each task.
pub fn measure_threads(
    client: &str,
    version: &str,
    args: &Args,
    send: impl Fn(usize) -> bool + Sync,
) {
    measure(client, version, args, |records| {
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..args.tasks)
                .map(|t| {
                    let send = &send;
                    scope.spawn(move || {
                        let mut run = Run::default();
                        for _ in 0..args.share(records, t) {
                            let start = Instant::now();
                            let acknowledged = send(t);
                            run.add(start, acknowledged);
                        }
                        run
                    })
                })
                .collect();
            let mut all = Run::default();
            for thread in threads {
                all.append(thread.join().expect("a thread panicked"));
            }
            all
        })
    });
}

/// The results of some records.
#[derive(Debug, Default)]
struct Run {
    latencies_ns: Vec<u64>,
    errors: usize,
}

impl Run {
    fn add(&mut self, start: Instant, acknowledged: bool) {
        self.latencies_ns.push(start.elapsed().as_nanos() as u64);
        self.errors += usize::from(!acknowledged);
    }

    fn append(&mut self, mut other: Run) {
        self.latencies_ns.append(&mut other.latencies_ns);
        self.errors += other.errors;
    }
}

fn measure(client: &str, version: &str, args: &Args, run: impl Fn(usize) -> Run) {
    let warmup = run(args.warmup);
    let (cpu_s, start) = (cpu_seconds(), Instant::now());
    let mut measured = run(args.records);
    let wall_s = start.elapsed().as_secs_f64();
    let cpu_us = (cpu_seconds() - cpu_s) * 1e6 / args.records as f64;
    measured.latencies_ns.sort_unstable();
    let ms = |quantile: f64| {
        let last = measured.latencies_ns.len() - 1;
        measured.latencies_ns[(last as f64 * quantile) as usize] as f64 / 1e6
    };
    println!(
        "{{\"client\":\"{client}\",\"version\":\"{version}\",\"tasks\":{},\"linger_ms\":{},\
         \"records\":{},\"wall_s\":{wall_s:.6},\"rec_per_s\":{:.1},\"cpu_us_per_rec\":{cpu_us:.3},\
         \"p50_ms\":{:.4},\"p99_ms\":{:.4},\"p999_ms\":{:.4},\"max_ms\":{:.4},\
         \"max_rss_kb\":{},\"errors\":{}}}",
        args.tasks,
        args.linger_ms,
        args.records,
        args.records as f64 / wall_s,
        ms(0.5),
        ms(0.99),
        ms(0.999),
        ms(1.0),
        max_rss_kb(),
        warmup.errors + measured.errors,
    );
}

/// User and system time of the process in seconds, to 10 ms.
fn cpu_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let ticks = |i: usize| fields.get(i).and_then(|f| f.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / 100.0
}

fn max_rss_kb() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kb| kb.parse().ok()).unwrap_or(0)
}
