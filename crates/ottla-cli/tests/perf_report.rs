//! `ottla perf` with `--report`, `--compare` and `--sweep`.
#![allow(missing_docs, clippy::disallowed_methods, clippy::disallowed_types)]

use std::path::Path;
use std::process::{Command, Output};

use ottla_broker::EmbeddedBroker;
use roxmltree::{Document, Node, ParsingOptions};
use serde_json::Value;

fn perf(args: &[&str]) -> Output {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("ottla"));
    command.arg("perf").args(args).output().expect("the command runs")
}

/// Runs the command, which has to succeed, and returns its output.
fn run_perf(args: &[&str]) -> String {
    let out = perf(args);
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{args:?}: {stderr}");
    String::from_utf8(out.stdout).expect("the output is UTF-8")
}

fn start_broker() -> EmbeddedBroker {
    EmbeddedBroker::builder().topic("t", 3).start().unwrap()
}

/// A run of about a second that writes these reports.
fn run_with_reports(broker: &EmbeddedBroker, reports: &[&Path], more: &[&str]) -> String {
    let servers = broker.bootstrap_servers();
    let mut args = vec!["-b", &servers, "--topic", "t", "--record-size", "100"];
    args.extend(["--num-records", "5000", "--throughput", "5000"]);
    for report in reports {
        args.extend(["--report", report.to_str().unwrap()]);
    }
    args.extend(more);
    run_perf(&args)
}

fn read_json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Parses a page. It is well-formed XML, so that a text which is not escaped would be found.
fn parse_page(html: &str) -> Document<'_> {
    let options = ParsingOptions { allow_dtd: true, ..ParsingOptions::default() };
    Document::parse_with_options(html, options).expect("the page is well-formed")
}

fn elements<'a>(page: &'a Document<'a>, name: &'static str) -> Vec<Node<'a, 'a>> {
    page.descendants().filter(|n| n.tag_name().name() == name).collect()
}

fn text(node: &Node<'_, '_>) -> String {
    node.descendants().filter_map(|n| if n.is_text() { n.text() } else { None }).collect()
}

#[test]
fn report_of_a_run_has_its_figures_as_page_and_as_json() {
    let (broker, dir) = (start_broker(), tempfile::tempdir().unwrap());
    let (html, json) = (dir.path().join("run.html"), dir.path().join("run.json"));
    let secret = "sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule \
                  required username=\"alice\" password=\"topsecret\";";
    let more = ["--command-property", secret, "linger.ms=7", "--report-name", "a <b> & \"c\""];
    let output = run_with_reports(&broker, &[&html, &json], &more);
    assert!(output.contains("5000 records sent, "), "{output}");

    let run = read_json(&json);
    assert_eq!(run["totals"]["records"], 5000, "{run}");
    assert_eq!(run["totals"]["bytes"], 500_000);
    assert_eq!((&run["settings"]["linger.ms"], &run["load"]["topic"]), (&"7".into(), &"t".into()));
    let samples = run["samples"].as_array().unwrap();
    let sum = |name: &str| samples.iter().map(|s| s[name].as_u64().unwrap()).sum::<u64>();
    assert_eq!((sum("records"), sum("bytes"), sum("failed")), (5000, 500_000, 0));
    assert!(sum("batches") > 0 && sum("batch_bytes") > 500_000, "{run}");
    let counted = run["latency_us"].as_array().unwrap().iter().map(|l| l[1].as_u64().unwrap());
    assert_eq!(counted.sum::<u64>(), 5000);
    let is_in_order = |pair: &[Value]| pair[0]["end_s"].as_f64() <= pair[1]["start_s"].as_f64();
    assert!(samples.windows(2).all(is_in_order), "{run}");

    let html = std::fs::read_to_string(&html).unwrap();
    let page = parse_page(&html);
    assert_eq!(text(&elements(&page, "h1")[0]), "ottla perf: a <b> & \"c\"");
    let titles: Vec<String> = elements(&page, "figcaption").iter().map(text).collect();
    for title in ["Throughput", "Latency by percentile", "Batch fill", "CPU", "Memory"] {
        assert!(titles.iter().any(|t| t.starts_with(title)), "no {title} in {titles:?}");
    }
    for figure in elements(&page, "figure") {
        let lines = figure.descendants().filter(|n| n.attribute("stroke-width") == Some("2"));
        assert!(lines.count() >= 1, "no line in {}", text(&figure));
    }
    let rows: Vec<String> = elements(&page, "tr").iter().map(text).collect();
    assert_eq!(run["cluster"]["brokers"], "1", "{run}");
    let id = format!("id{}", run["cluster"]["id"].as_str().unwrap());
    for row in [
        "records acknowledged5,000",
        "records failed0",
        "linger.ms7",
        "bytes of a value100",
        id.as_str(),
    ] {
        assert!(rows.iter().any(|r| r == row), "no {row} in {rows:?}");
    }
    for file in [&html, &run.to_string()] {
        assert!(!file.contains("topsecret"), "a secret is in the report");
    }
}

#[test]
fn json_output_and_its_warm_up_have_a_report_too() {
    let (broker, dir) = (start_broker(), tempfile::tempdir().unwrap());
    let json = dir.path().join("run.json");
    let output = run_with_reports(&broker, &[&json], &["--warmup-records", "500", "--json"]);
    let result: Value = serde_json::from_str(&output).unwrap();
    let run = read_json(&json);
    assert_eq!((&result["records"], &run["totals"]["records"]), (&5000.into(), &5000.into()));
    let samples = run["samples"].as_array().unwrap().iter();
    assert_eq!(samples.map(|s| s["records"].as_u64().unwrap()).sum::<u64>(), 5000, "{run}");
}

#[test]
fn compared_runs_are_in_one_page() {
    let (broker, dir) = (start_broker(), tempfile::tempdir().unwrap());
    let paths = ["first", "second"].map(|name| dir.path().join(format!("{name}.json")));
    for (path, linger) in paths.iter().zip(["linger.ms=1", "linger.ms=20"]) {
        let more = ["--report-name", linger, "--command-property", linger];
        run_with_reports(&broker, &[path], &more);
    }
    let page_path = dir.path().join("both.html");
    let [first, second, page_path] =
        [&paths[0], &paths[1], &page_path].map(|path| path.to_str().unwrap());
    let output = run_perf(&["--compare", first, second, "--report", page_path]);
    let lines: Vec<&str> = output.lines().collect();
    assert!(lines.len() == 3 && lines[0].starts_with("run "), "{output}");
    assert!(
        lines[1].starts_with("linger.ms=1 ") && lines[2].starts_with("linger.ms=20"),
        "{output}"
    );
    let html = std::fs::read_to_string(page_path).unwrap();
    let page = parse_page(&html);
    let differing = elements(&page, "tr").into_iter().filter(|r| r.has_attribute("class"));
    assert!(differing.map(|r| text(&r)).any(|row| row == "linger.ms120"), "{html}");
    // Without --report there is only the table.
    assert_eq!(run_perf(&["--compare", first, second]), output);
}

#[test]
fn files_that_cannot_be_compared_or_written_are_named() {
    let (broker, dir) = (start_broker(), tempfile::tempdir().unwrap());
    let other = dir.path().join("other.json");
    std::fs::write(&other, "{\"client\": \"ottla\"}").unwrap();
    let [other, page] = [other, dir.path().join("page.html")].map(|p| p.display().to_string());
    let servers = broker.bootstrap_servers();
    let load = ["-b", &servers, "--topic", "t", "--num-records", "1", "--record-size", "1"];
    let load = [&load[..], &["--throughput", "-1"]].concat();
    for (args, reason) in [
        (vec!["--compare", "/no/such.json"], "cannot read /no/such.json"),
        (vec!["--compare", &other], "it is no report of ottla perf"),
        (vec!["--compare", &other, "--report", "/no/such/dir/a.html"], "/no/such/dir/a.html"),
        (vec!["--compare", &other, "--report", "a.json"], "ends in .html"),
        ([&load[..], &["--report", "a.pdf"]].concat(), "must end in .html or .json"),
        ([&load[..], &["--report", "/no/such/dir/a.json"]].concat(), "/no/such/dir/a.json"),
    ] {
        let out = perf(&args);
        let stderr = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(2), "{args:?}: {stderr}");
        assert!(stderr.contains(reason), "{args:?}: no {reason:?} in {stderr}");
    }
    assert!(!Path::new(&page).exists());
    assert_eq!(broker.records("t").unwrap().len(), 0, "nothing is sent before the check");
}

#[test]
fn sweep_reports_each_rate_and_the_highest_one() {
    let (broker, dir) = (start_broker(), tempfile::tempdir().unwrap());
    let [html, json] = ["sweep.html", "sweep.json"].map(|name| dir.path().join(name));
    let servers = broker.bootstrap_servers();
    let load = ["-b", &servers, "--topic", "t", "--record-size", "100"];
    let sweep = ["--sweep", "200..800", "--sweep-steps", "3", "--sweep-seconds", "1"];
    let files = ["--report", html.to_str().unwrap(), "--report", json.to_str().unwrap()];
    let output = run_perf(&[&load[..], &sweep, &files].concat());
    let lines: Vec<&str> = output.lines().collect();
    for (line, rate) in lines.iter().zip([200, 400, 800]) {
        assert!(line.starts_with(&format!("{rate} records/sec offered, ")), "{output}");
    }
    assert!(lines.last().unwrap().starts_with("highest rate: "), "{output}");
    let run = read_json(&json);
    let steps = run["sweep"].as_array().unwrap();
    assert!(steps.len() >= 3 && steps[0]["offered"] == 200.0, "{run}");
    assert!(steps[0]["latency_us"][1].as_u64() > Some(0), "{run}");
    let html = std::fs::read_to_string(&html).unwrap();
    let page = parse_page(&html);
    let titles: Vec<String> = elements(&page, "figcaption").iter().map(text).collect();
    assert!(titles[0].starts_with("Latency by rate"), "{titles:?}");
}

#[test]
fn sweep_with_a_limit_that_no_rate_keeps_says_so() {
    let broker = start_broker();
    let servers = broker.bootstrap_servers();
    let load = ["-b", &servers, "--topic", "t", "--record-size", "100"];
    // No response comes within a microsecond.
    let sweep = ["--sweep", "200..400", "--sweep-steps", "2", "--sweep-seconds", "1"];
    let args = [&load[..], &sweep, &["--sweep-p99", "0.001", "--json"]].concat();
    let result: Value = serde_json::from_str(&run_perf(&args)).unwrap();
    assert_eq!(result["highest_rate"], Value::Null, "{result}");
    assert_eq!(result["steps"].as_array().unwrap().len(), 2, "{result}");
}

#[test]
fn sweep_ends_at_a_rate_that_the_producer_cannot_keep() {
    let broker = start_broker();
    let servers = broker.bootstrap_servers();
    let load = ["-b", &servers, "--topic", "t", "--record-size", "1"];
    let sweep = ["--sweep", "300000000..900000000", "--sweep-seconds", "1"];
    let output = run_perf(&[&load[..], &sweep].concat());
    let lines: Vec<&str> = output.lines().collect();
    assert!(lines[0].ends_with(", not sustained"), "{output}");
    assert_eq!(lines[1..], ["no rate was sustained"], "{output}");
}

/// Returns what a browser shows of a page: a script in a copy of the page looks at it.
fn look_with_chromium(chromium: &str, html: &str, is_dark: bool) -> Option<Value> {
    const SCRIPT: &str = "<script>
        const style = (e) => getComputedStyle(e);
        const line = document.querySelector('svg polyline[stroke-width=\"2\"]');
        const label = document.querySelector('svg text');
        document.title = JSON.stringify({
            page: style(document.body).backgroundColor,
            text: style(label).fill,
            line: style(line).stroke,
            figures: [...document.querySelectorAll('svg')]
                .filter((e) => e.getBoundingClientRect().width > 200).length,
            overflows: document.documentElement.scrollWidth > innerWidth,
        });
        </script></body>";
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("page.html");
    std::fs::write(&path, html.replace("</body>", SCRIPT)).unwrap();
    let profile = format!("--user-data-dir={}", dir.path().join("profile").display());
    let scheme = format!("--blink-settings=preferredColorScheme={}", i32::from(!is_dark));
    let out = Command::new("timeout")
        .args(["-s", "KILL", "60", chromium, "--headless", "--no-sandbox", "--disable-gpu"])
        .args(["--window-size=900,1200", &profile, &scheme, "--dump-dom"])
        .arg(format!("file://{}", path.display()))
        .output()
        .unwrap();
    let dom = String::from_utf8_lossy(&out.stdout).into_owned();
    let title = dom.split_once("<title>")?.1.split_once("</title>")?.0;
    serde_json::from_str(title).ok()
}

#[test]
fn browser_shows_all_charts_in_light_and_dark() {
    let chromium = ["chromium", "chromium-browser", "google-chrome"].into_iter().find(|name| {
        Command::new(name).arg("--version").output().is_ok_and(|out| out.status.success())
    });
    let Some(chromium) = chromium else {
        return ottla_testkit::skip_test("there is no chromium");
    };
    let (broker, dir) = (start_broker(), tempfile::tempdir().unwrap());
    let path = dir.path().join("run.html");
    run_with_reports(&broker, &[&path], &[]);
    let html = std::fs::read_to_string(&path).unwrap();
    let [light, dark] = [false, true].map(|is_dark| look_with_chromium(chromium, &html, is_dark));
    let (Some(light), Some(dark)) = (light, dark) else {
        return ottla_testkit::skip_test("chromium does not run here");
    };
    for shown in [&light, &dark] {
        assert_eq!(shown["figures"].as_u64(), Some(html.matches("<svg").count() as u64), "{shown}");
        assert_eq!(shown["overflows"], false, "{shown}");
    }
    assert_eq!(
        (&light["page"], &dark["page"]),
        (&"rgb(255, 255, 255)".into(), &"rgb(23, 23, 26)".into())
    );
    assert_ne!(light["text"], dark["text"], "labels would not be readable");
    assert_ne!(light["line"], dark["line"]);
}
