//! Checks the language of the whole repository: no retired word, no misspelt word, no line over
//! 100 columns, no link that leads nowhere, no case id that `docs/CASES.md` does not have.
#![allow(missing_docs)]

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use typos::tokens::{Identifier, Tokenizer, Word};
use typos::{Dictionary, Status, check_str};

/// The longest line, in characters.
const MAX_COLUMNS: usize = 100;
/// The list of retired words, which is the only text that may contain them.
const RETIRED_WORDS: &str = "retired_words.txt";
/// The list that rustdoc writes, whose lines are as long as the signatures.
const PUBLIC_API: &str = "public-api.txt";
/// Endings of the files that are read.
const TEXT_EXTENSIONS: [&str; 6] = ["rs", "md", "toml", "txt", "java", "xml"];
/// Words that the spelling dictionary does not know, or takes for a misspelling.
const CORRECT_WORDS: [&str; 4] = ["flate", "ede", "gost", "ratatui"];

/// A text file of the repository.
struct TextFile {
    path: PathBuf,
    text: String,
}

fn repository_root() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    root.canonicalize().expect("the repository's root exists")
}

/// Returns every text file that people read and write. Build output, recorded input, licences and
/// the list of public items are left out.
fn text_files() -> Vec<TextFile> {
    let mut files = Vec::new();
    collect_text_files(&repository_root(), &mut files);
    assert!(files.len() > 200, "found only {} text files", files.len());
    files
}

fn collect_text_files(dir: &Path, files: &mut Vec<TextFile>) {
    const SKIPPED_DIRS: [&str; 5] = ["target", "fixtures", "corpus", "artifacts", "node_modules"];
    for entry in fs::read_dir(dir).expect("a directory of the repository can be read") {
        let path = entry.expect("a directory entry can be read").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            let is_hidden = name.starts_with('.') && name != ".ci" && name != ".cargo";
            if !is_hidden && !SKIPPED_DIRS.contains(&name.as_str()) {
                collect_text_files(&path, files);
            }
            continue;
        }
        let extension = path.extension().unwrap_or_default().to_string_lossy().into_owned();
        if TEXT_EXTENSIONS.contains(&extension.as_str()) && name != PUBLIC_API {
            let text = fs::read_to_string(&path).expect("a text file is UTF-8");
            files.push(TextFile { path, text });
        }
    }
}

/// Fails with all `findings`, one a line.
fn assert_none(findings: &[String]) {
    assert!(findings.is_empty(), "{} findings:\n{}", findings.len(), findings.join("\n"));
}

/// Splits a line into lower-case words; `event_queue`, `EventQueue` and `event queue` are alike.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let chars: Vec<char> = line.chars().filter(|c| *c != '\'').collect();
    for (i, c) in chars.iter().enumerate() {
        let previous = i.checked_sub(1).and_then(|i| chars.get(i));
        let starts_upper = c.is_uppercase()
            && previous.is_some_and(|p| {
                // `EventQueue` splits before the `Q`, `TLSSession` before the second `S`.
                !p.is_uppercase() || chars.get(i + 1).is_some_and(|n| n.is_lowercase())
            });
        if starts_upper || !c.is_alphanumeric() {
            words.push(String::new());
        }
        if c.is_alphanumeric() {
            words.last_mut().expect("there is a word").extend(c.to_lowercase());
        }
    }
    words.retain(|w| !w.is_empty());
    words
}

/// A retired word or phrase, and what to write instead.
struct RetiredWord {
    words: Vec<String>,
    better: String,
}

fn retired_words() -> Vec<RetiredWord> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(RETIRED_WORDS);
    let text = fs::read_to_string(path).expect("the list of retired words can be read");
    let entries = text.lines().filter(|l| !l.starts_with('#') && !l.trim().is_empty());
    let parse = |entry: &str| {
        let (word, better) = entry.split_once('=').expect("an entry is `word = better words`");
        RetiredWord { words: words(word), better: better.trim().to_owned() }
    };
    entries.map(parse).collect()
}

#[test]
fn no_retired_word_is_used() {
    let retired = retired_words();
    assert!(retired.len() > 50, "the list of retired words has only {} entries", retired.len());
    let mut findings = Vec::new();
    for file in text_files() {
        if file.path.ends_with(RETIRED_WORDS) {
            continue;
        }
        for (number, line) in file.text.lines().enumerate() {
            let words = words(line);
            for entry in &retired {
                if words.windows(entry.words.len()).any(|w| w == entry.words) {
                    let (path, word) = (file.path.display(), entry.words.join(" "));
                    let better = &entry.better;
                    findings.push(format!("{path}:{}: {word:?}: write {better}", number + 1));
                }
            }
        }
    }
    assert_none(&findings);
}

#[test]
fn no_line_is_longer_than_100_columns() {
    let mut findings = Vec::new();
    for file in text_files() {
        for (number, line) in file.text.lines().enumerate() {
            let columns = line.chars().count();
            if columns > MAX_COLUMNS {
                let path = file.path.display();
                findings.push(format!("{path}:{}: {columns} columns", number + 1));
            }
        }
    }
    assert_none(&findings);
}

/// The dictionary of common misspellings.
struct Misspellings;

impl Dictionary for Misspellings {
    fn correct_ident<'s>(&'s self, _: Identifier<'_>) -> Option<Status<'s>> {
        None
    }

    fn correct_word<'s>(&'s self, word: Word<'_>) -> Option<Status<'s>> {
        let token = word.token();
        if CORRECT_WORDS.contains(&token.to_lowercase().as_str()) {
            return Some(Status::Valid);
        }
        let corrections = typos_dict::WORD.find(&unicase::UniCase::new(token))?;
        Some(Status::Corrections(corrections.iter().map(|c| Cow::Borrowed(*c)).collect()))
    }
}

#[test]
fn no_word_is_misspelt() {
    let tokenizer = Tokenizer::new();
    let mut findings = Vec::new();
    for file in text_files() {
        for (number, line) in file.text.lines().enumerate() {
            // Recorded bytes in hexadecimal are no words.
            if line.split(|c: char| !c.is_ascii_hexdigit()).any(|part| part.len() >= 24) {
                continue;
            }
            for typo in check_str(line, &tokenizer, &Misspellings) {
                let path = file.path.display();
                let (word, better) = (&typo.typo, &typo.corrections);
                findings.push(format!("{path}:{}: {word:?}: {better:?}", number + 1));
            }
        }
    }
    assert_none(&findings);
}

#[test]
fn every_relative_link_leads_to_a_file() {
    let mut findings = Vec::new();
    for file in text_files().iter().filter(|f| f.path.extension().is_some_and(|e| e == "md")) {
        let dir = file.path.parent().expect("a file is in a directory");
        for link in file.text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = link.split('#').next().unwrap_or_default();
            let is_path = !target.is_empty() && !target.contains(['[', '*']);
            if is_path && !target.contains("://") && !dir.join(target).exists() {
                findings.push(format!("{}: no file {target}", file.path.display()));
            }
        }
    }
    assert_none(&findings);
}

/// Returns the ids that a comment names, as in `CASES: SN28, F1.7.` or `(CASES SN28)`.
fn case_ids(line: &str) -> Vec<String> {
    let list = line.split_once("CASES: ").or_else(|| line.split_once("(CASES ")).map(|l| l.1);
    let list = list.and_then(|l| l.split(['(', ')', ';', '`']).next()).unwrap_or_default();
    let ids = list.split([',', ' ']).map(|id| id.trim_end_matches('.').to_owned());
    ids.filter(|id| is_case_id(id)).collect()
}

/// Returns whether `id` is one or two capitals and a number, like `B2`, `F1.7` and `SN28`.
fn is_case_id(id: &str) -> bool {
    let number = id.trim_start_matches(|c: char| c.is_ascii_uppercase());
    let capitals = id.len() - number.len();
    let is_number = |n: &str| !n.is_empty() && n.chars().all(|c| c.is_ascii_digit());
    (1..=2).contains(&capitals) && number.splitn(2, '.').all(is_number)
}

#[test]
fn every_case_id_is_in_the_document_of_cases() {
    let path = repository_root().join("docs/CASES.md");
    let document = fs::read_to_string(path).expect("docs/CASES.md can be read");
    let known: BTreeSet<&str> =
        (document.lines()).filter_map(|l| l.strip_prefix("- **")?.split("**").next()).collect();
    let (mut findings, mut seen) = (Vec::new(), 0);
    for file in text_files().iter().filter(|f| f.path.extension().is_some_and(|e| e == "rs")) {
        for (number, line) in file.text.lines().enumerate() {
            if !line.trim_start().starts_with("//") {
                continue;
            }
            for id in case_ids(line) {
                seen += 1;
                if !known.contains(id.as_str()) {
                    let path = file.path.display();
                    findings.push(format!("{path}:{}: no case {id}", number + 1));
                }
            }
        }
    }
    assert!(seen > 100, "found only {seen} case ids");
    assert_none(&findings);
}
