//! Java's properties format, as `Properties.load` reads it: comments, continuations, escapes.

/// Reads text in Java's properties format into names and values, in order.
pub fn parse(text: &str) -> Vec<(String, String)> {
    logical_lines(text).into_iter().map(|line| split_name_value(&line)).collect()
}

/// Lines without comments and blanks; a line that ends in an odd number of backslashes goes on.
fn logical_lines(text: &str) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    let mut goes_on = false;
    for line in text.trim_start_matches('\u{feff}').lines() {
        let line = line.trim_start();
        if !goes_on && (line.is_empty() || line.starts_with(['#', '!'])) {
            continue;
        }
        let slashes = line.len() - line.trim_end_matches('\\').len();
        let more = slashes % 2 == 1;
        let part = if more { &line[..line.len() - 1] } else { line };
        match out.last_mut() {
            Some(last) if goes_on => last.push_str(part),
            _ => out.push(part.to_owned()),
        }
        goes_on = more;
    }
    out
}

/// The name ends at the first `=`, `:` or blank that is not escaped.
fn split_name_value(line: &str) -> (String, String) {
    let mut escaped = false;
    let end = line.char_indices().find(|(_, c)| {
        let here = !escaped && (matches!(c, '=' | ':') || c.is_whitespace());
        escaped = !escaped && *c == '\\';
        here
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
    fn the_format_of_java() {
        let text = "# a comment\n! another\n\na=1\nb : 2\nc 3\n  d  =  4 5\ne=first \\\n   second\nf\\=g=h\\:i\\\\\nempty=\nt=\\u00e9\\t|\nsasl.jaas.config=x required username=\"a=b\";\n";
        let want = [
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
        let got = parse(text);
        assert_eq!(got.len(), want.len(), "{got:?}");
        for ((n, v), (name, value)) in got.iter().zip(want) {
            assert_eq!((n.as_str(), v.as_str()), (name, value));
        }
    }
}
