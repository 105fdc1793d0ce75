//! Parses Java's properties format as `java.util.Properties.load` does: comments, continuation
//! lines and escapes.

/// Parses text in Java's properties format and returns names and values in the order of the text.
/// A name that occurs twice is returned twice.
pub fn parse(text: &str) -> Vec<(String, String)> {
    logical_lines(text).into_iter().map(|line| split_name_value(&line)).collect()
}

/// Removes comments and empty lines, and joins continued lines. A line that ends in an odd number
/// of backslashes continues in the next one; an even number is escaped backslashes.
fn logical_lines(text: &str) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    let mut continues = false;
    for line in text.trim_start_matches('\u{feff}').lines() {
        let line = line.trim_start();
        if !continues && (line.is_empty() || line.starts_with(['#', '!'])) {
            continue;
        }
        let slashes = line.len() - line.trim_end_matches('\\').len();
        let is_continued = slashes % 2 == 1;
        let part = if is_continued { &line[..line.len() - 1] } else { line };
        match out.last_mut() {
            Some(last) if continues => last.push_str(part),
            _ => out.push(part.to_owned()),
        }
        continues = is_continued;
    }
    out
}

/// Splits a line into name and value. The name ends at the first `=`, `:` or whitespace that is not
/// escaped.
fn split_name_value(line: &str) -> (String, String) {
    let mut escaped = false;
    let end = line.char_indices().find(|(_, c)| {
        let is_end = !escaped && (matches!(c, '=' | ':') || c.is_whitespace());
        escaped = !escaped && *c == '\\';
        is_end
    });
    let end = end.map_or(line.len(), |(i, _)| i);
    let rest = line[end..].trim_start();
    let rest = rest.strip_prefix(['=', ':']).unwrap_or(rest).trim_start();
    (unescape(&line[..end]), unescape(rest))
}

fn unescape(text: &str) -> String {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('t') => out.push('\t'),
            Some('n') => out.push('\n'),
            Some('r') => out.push('\r'),
            Some('f') => out.push('\u{c}'),
            Some('u') => {
                let hex: String = chars.by_ref().take(4).collect();
                let code = u32::from_str_radix(&hex, 16).ok().and_then(char::from_u32);
                out.push(code.unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            Some(other) => out.push(other),
            None => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_continuations_and_escapes_are_parsed_as_in_java() {
        let text = "# a comment\n! another\n\na=1\nb : 2\nc 3\n  d  =  4 5\n\
            e=first \\\n   second\nf\\=g=h\\:i\\\\\nempty=\nt=\\u00e9\\t|\n\
            sasl.jaas.config=x required username=\"a=b\";\n";
        let expected = [
            ("a", "1"),
            ("b", "2"),
            ("c", "3"),
            ("d", "4 5"),
            ("e", "first second"),
            ("f=g", "h:i\\"),
            ("empty", ""),
            ("t", "é\t|"),
            ("sasl.jaas.config", "x required username=\"a=b\";"),
        ];
        let parsed = parse(text);
        assert_eq!(parsed.len(), expected.len(), "{parsed:?}");
        for ((n, v), (name, value)) in parsed.iter().zip(expected) {
            assert_eq!((n.as_str(), v.as_str()), (name, value));
        }
    }
}
