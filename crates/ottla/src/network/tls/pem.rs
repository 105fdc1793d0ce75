//! Parses PEM texts: files and the values of settings, as tools and people write them.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use zeroize::Zeroizing;

/// A block of a PEM text: the label between `BEGIN` and the dashes, and the decoded bytes.
pub(super) struct PemBlock {
    pub(super) label: String,
    pub(super) der: Zeroizing<Vec<u8>>,
    pub(super) encryption: Option<TraditionalEncryption>,
}

/// OpenSSL's traditional encryption of a block, from its `DEK-Info` line.
pub(super) struct TraditionalEncryption {
    pub(super) cipher: String,
    pub(super) iv: Vec<u8>,
}

/// Decodes a text file. Editors and shells on Windows write UTF-8 or UTF-16, most with a byte order
/// mark.
pub(super) fn decode_text(bytes: &[u8]) -> Zeroizing<String> {
    let utf16 = |bytes: &[u8], decode: fn([u8; 2]) -> u16| {
        let units = bytes.chunks_exact(2).map(|pair| decode([pair[0], pair[1]]));
        char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
    };
    Zeroizing::new(match bytes {
        [0xff, 0xfe, rest @ ..] => utf16(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => utf16(rest, u16::from_be_bytes),
        [1..=0x7f, 0, 1..=0x7f, 0, ..] => utf16(bytes, u16::from_le_bytes),
        [0, 1..=0x7f, 0, 1..=0x7f, ..] => utf16(bytes, u16::from_be_bytes),
        _ => String::from_utf8_lossy(bytes).into_owned(),
    })
}

/// Parses all blocks of a PEM text and ignores the text around them. Spaces or the two characters
/// `\n` may replace line breaks, since the text may be a value in a properties file or a variable.
///
/// # Errors
/// The reason why a block is not valid.
pub(super) fn parse_pem(text: &str) -> Result<Vec<PemBlock>, String> {
    let mut blocks = Vec::new();
    let mut rest = text;
    while let Some((_, after_begin)) = rest.split_once("-----BEGIN ") {
        let (label, after_label) =
            after_begin.split_once("-----").ok_or("a BEGIN line of the PEM text is incomplete")?;
        let end = format!("-----END {label}-----");
        let (body, after) = after_label
            .split_once(&end)
            .ok_or_else(|| format!("the PEM block {label} has no END line"))?;
        blocks.push(parse_block(label, body)?);
        rest = after;
    }
    Ok(blocks)
}

fn parse_block(label: &str, body: &str) -> Result<PemBlock, String> {
    // The body may be a key. With full capacity the strings never reallocate, which would leave
    // copies in freed memory.
    let mut spaced = Zeroizing::new(String::with_capacity(body.len()));
    let mut chars = body.chars().peekable();
    while let Some(c) = chars.next() {
        // A backslash is no base64. With n, r or t it stands for white space, alone it continues a
        // line of a properties file.
        if c == '\\' {
            chars.next_if(|next| matches!(next, 'n' | 'r' | 't'));
            spaced.push(' ');
        } else {
            spaced.push(c);
        }
    }
    let mut base64 = Vec::new();
    let mut encryption = None;
    let mut words = spaced.split_whitespace();
    while let Some(word) = words.next() {
        match word {
            "DEK-Info:" => encryption = Some(parse_dek_info(words.next().unwrap_or_default())?),
            // Another header with one value, such as `Proc-Type: 4,ENCRYPTED`.
            _ if word.ends_with(':') => drop(words.next()),
            _ => base64.push(word),
        }
    }
    let der = decode_base64(base64.iter().copied());
    let der = der.ok_or_else(|| format!("the PEM block {label} is not base64"))?;
    Ok(PemBlock { label: label.to_owned(), der, encryption })
}

/// Decodes the lines of a base64 text; `None` if it is none.
pub(super) fn decode_base64<'t>(
    lines: impl Iterator<Item = &'t str> + Clone,
) -> Option<Zeroizing<Vec<u8>>> {
    let mut joined = Zeroizing::new(String::with_capacity(lines.clone().map(str::len).sum()));
    lines.for_each(|line| joined.push_str(line));
    BASE64_STANDARD.decode(joined.as_bytes()).ok().map(Zeroizing::new)
}

/// Parses a cipher and an initialization vector, such as `DES-EDE3-CBC,0123456789ABCDEF`.
fn parse_dek_info(value: &str) -> Result<TraditionalEncryption, String> {
    let error = || format!("the line DEK-Info: {value} is not a cipher and a hexadecimal number");
    let (cipher, digits) = value.split_once(',').ok_or_else(error)?;
    let byte = |i: usize| digits.get(i..i + 2).and_then(|d| u8::from_str_radix(d, 16).ok());
    let iv = (0..digits.len()).step_by(2).map(byte).collect::<Option<Vec<u8>>>();
    Ok(TraditionalEncryption { cipher: cipher.to_owned(), iv: iv.ok_or_else(error)? })
}
