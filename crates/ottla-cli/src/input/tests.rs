use std::io::BufReader;

use proptest::prelude::*;

use super::*;
use crate::args::{CsvValue, InputArgs};

const MAX_REQUEST_SIZE: usize = 1 << 20;

fn json() -> ProduceArgs {
    with_input(InputArgs { format: InputFormat::Json, ..InputArgs::default() })
}

fn csv() -> InputArgs {
    InputArgs { format: InputFormat::Csv, ..InputArgs::default() }
}

fn raw() -> InputArgs {
    InputArgs { format: InputFormat::Raw, ..InputArgs::default() }
}

fn with_input(input: InputArgs) -> ProduceArgs {
    ProduceArgs { topic: Some("t".into()), input, ..ProduceArgs::default() }
}

/// A record that owns its bytes.
type Owned = (Option<Vec<u8>>, Option<Vec<u8>>, Vec<Header<'static>>);

fn owned(record: InputRecord<'_>) -> Owned {
    (
        record.key.map(Cow::into_owned),
        record.value.map(Cow::into_owned),
        record.headers.into_iter().map(Header::into_owned).collect(),
    )
}

/// Returns the reason, behind a word if the record is too long.
fn into_reason(e: InputError) -> String {
    match e {
        InputError::TooLong(reason) => format!("too long: {reason}"),
        InputError::Invalid(reason) => reason,
    }
}

/// Reads all records with a buffer of this size. The last entry may be the error of the reading.
fn read_all(
    args: &ProduceArgs,
    limit: usize,
    buffer: usize,
    input: &[u8],
) -> Vec<Result<Owned, String>> {
    let mut reader = RecordReader::new(args, limit).unwrap_or_else(|e| panic!("{}", e.message));
    let mut stream = BufReader::with_capacity(buffer, input);
    let mut out = Vec::new();
    if let Err(e) = reader.start_input(&mut stream) {
        return vec![Err(e.to_string())];
    }
    loop {
        match reader.read(&mut stream) {
            Ok(NextRecord::Record) => out.push(reader.parse().map(owned).map_err(into_reason)),
            Ok(NextRecord::Error(e)) => out.push(Err(into_reason(e))),
            Ok(NextRecord::Eof) => return out,
            Err(e) => {
                out.push(Err(e.to_string()));
                return out;
            }
        }
    }
}

/// Parses one line of JSON.
fn parse_json(line: &[u8]) -> Result<InputRecord<'_>, InputError> {
    json::parse(line, MAX_REQUEST_SIZE, JsonParts::default())
}

fn some(text: &str) -> Option<Cow<'_, [u8]>> {
    Some(Cow::Borrowed(text.as_bytes()))
}

#[test]
fn json_values_are_text_json_null_or_base64() {
    for (fields, key, value) in [
        (r#""value":"v""#, None, some("v")),
        (r#""key":"k","value":"a\n\u00e9\"""#, some("k"), some("a\né\"")),
        (r#" "value" : { "a" : [1, 1e999999] } "#, None, some(r#"{ "a" : [1, 1e999999] }"#)),
        (r#""key":7,"value":true"#, some("7"), some("true")),
        (r#""key":"","value":null"#, some(""), None),
        (r#""key":null,"value_base64":"AP8=""#, None, Some(Cow::Borrowed(&b"\x00\xff"[..]))),
        (r#""key_base64":"/w","payload":"v""#, Some(Cow::Borrowed(&b"\xff"[..])), some("v")),
        (r#""key":null,"key_base64":"YQ==","value":"v""#, some("a"), some("v")),
    ] {
        let line = format!("{{{fields}}}");
        let record = parse_json(line.as_bytes()).unwrap_or_else(|e| panic!("{line}: {e:?}"));
        assert_eq!((record.key, record.value), (key, value), "{line}");
    }
}

#[test]
fn json_names_topic_partition_timestamp_and_headers_in_any_form() {
    let line = br#"{"topic":"t","partition":3,"timestamp":-5,"value":"v"}"#;
    let record = parse_json(line).unwrap();
    assert_eq!(record.topic.as_deref(), Some("t"));
    assert_eq!((record.partition, record.timestamp), (Some(3), Some(-5)));
    let expected = [Header::new("a", "1"), Header::null("b"), Header::new("a", "2")];
    for headers in [
        r#"["a","1","b",null,"a","2"]"#,
        r#"[["a","1"],["b",null],["a","2"]]"#,
        r#"[{"key":"a","value":"1"},{"value":null,"key":"b"},{"key":"a","value_base64":"Mg=="}]"#,
        r#"{"a":"1","b":null,"a":"2"}"#,
    ] {
        let line = format!(r#"{{"headers":{headers},"value":"v"}}"#);
        assert_eq!(parse_json(line.as_bytes()).unwrap().headers, expected, "{headers}");
    }
    // kcat's json_map, and values that are no strings.
    let line = br#"{"headers":{"a":["1",null],"n":1,"o":{"p":[]}},"value":"v"}"#;
    assert_eq!(
        parse_json(line).unwrap().headers,
        [
            Header::new("a", "1"),
            Header::null("a"),
            Header::new("n", "1"),
            Header::new("o", r#"{"p":[]}"#)
        ]
    );
}

#[test]
fn output_of_kcat_is_read_as_it_is() {
    let line = br#"{"topic":"t","partition":0,"offset":12,"tstype":"create","ts":1700000000000,
        "broker":1,"headers":["h","v"],"key":null,"payload":"a\"b\u0000"}"#;
    let record = parse_json(line).unwrap();
    assert_eq!((record.key, record.value), (None, some("a\"b\0")));
    assert_eq!(record.timestamp, Some(1_700_000_000_000));
    assert_eq!(record.headers, [Header::new("h", "v")]);
    let line = br#"{"topic":"t","partition":0,"offset":1,"tstype":"unknown","ts":0,"broker":1,
        "key":"","payload":null}"#;
    let record = parse_json(line).unwrap();
    assert_eq!((record.key, record.value, record.timestamp), (some(""), None, None));
    // Bytes that are not UTF-8 are written as they are, beside escapes.
    let line = b"{\"topic\":\"t\",\"partition\":0,\"offset\":1,\"tstype\":\"create\",\"ts\":5,\
        \"broker\":1,\"headers\":[\"h\",\"\xfe\",\"i\",null],\"key\":\"\\\"\xff\",\
        \"payload\":\"\xc3\\u000a\xff\"}";
    let record = parse_json(line).unwrap();
    assert_eq!(record.key.as_deref(), Some(&b"\"\xff"[..]));
    assert_eq!(record.value.as_deref(), Some(&b"\xc3\n\xff"[..]));
    assert_eq!(record.headers, [Header::new("h", b"\xfe"), Header::null("i")]);
    assert_eq!((record.topic.as_deref(), record.timestamp), (Some("t"), Some(5)));
}

#[test]
fn error_of_a_json_line_names_line_field_and_what_was_expected() {
    for (line, expected) in [
        ("", "column 0: EOF while parsing a value"),
        ("[]", "invalid type: sequence, expected an object"),
        (r#"{"value":"v"} x"#, "column 15: trailing characters"),
        (r#"{"value":"v"#, "column 11: EOF while parsing a string"),
        (r#"{"val":"v"}"#, "unknown field val; expected topic, partition, key"),
        (r#"{"value":1,"value":2}"#, "duplicate field `value`"),
        (r#"{"key":"k"}"#, "no value: expected the field value, value_base64 or payload"),
        (r#"{"value":1,"payload":2}"#, "both value and payload are given"),
        (r#"{"key":1,"key_base64":"","value":2}"#, "both key and key_base64 are given"),
        (r#"{"value_base64":"%"}"#, "field value_base64: expected base64: Invalid symbol"),
        (
            r#"{"value_base64":7}"#,
            "field value_base64: expected a string of base64, or null, found 7",
        ),
        (r#"{"value":"\ud800"}"#, "field value: column"),
        (r#"{"topic":7,"value":1}"#, "field topic: expected a string, found 7"),
        (r#"{"partition":-2,"value":1}"#, "field partition: expected an integer from 0 to"),
        (r#"{"partition":99999999999,"value":1}"#, "field partition: expected an integer from 0"),
        (r#"{"timestamp":"now","value":1}"#, "field timestamp: expected milliseconds since 1970"),
        (r#"{"timestamp":1,"ts":1,"value":1}"#, "both timestamp and ts are given"),
        (r#"{"headers":7,"value":1}"#, "field headers: expected an object, an array or null"),
        (r#"{"headers":["a"],"value":1}"#, r#"field headers[0]: the name a has no value after it"#),
        (r#"{"headers":["a","b",1,"c"],"value":1}"#, "field headers[2]: expected a header's name"),
        (r#"{"headers":[["a"]],"value":1}"#, "field headers[0]: expected an array of a name and"),
        (
            r#"{"headers":[{"key":"a"}],"value":1}"#,
            "field headers[0]: expected the members key and",
        ),
        (r#"{"input":"x","error":"e"}"#, "field input: the object has input that could not be"),
        (r#"{"payload":null,"payload_error":"e"}"#, "field payload_error: kcat could not decode"),
    ] {
        let e = parse_json(line.as_bytes()).unwrap_err().with_line(7);
        let InputError::Invalid(e) = e else { panic!("{line}: {e:?}") };
        assert!(e.starts_with("line 7, ") && e.contains(expected), "{line}: {e}");
    }
}

/// Each header copies a name with an escape, so a line of some megabytes would take terabytes.
#[test]
fn headers_that_share_a_name_are_limited_to_the_size_of_a_record() {
    let parse = |headers: &str, limit: usize| {
        let line = format!(r#"{{"value":1,"headers":{headers}}}"#);
        let parsed = json::parse(line.as_bytes(), limit, JsonParts::default())
            .map(|record| record.headers.len());
        parsed.map_err(into_reason)
    };
    let shared = r#"{"\u0061b":["1",null,22],"c":[3,4]}"#;
    // Three times "ab", two times "c", and five digits.
    assert_eq!(parse(shared, 13), Ok(5));
    let reason = "the headers with several values are larger than max.request.size";
    assert_eq!(parse(shared, 12), Err(format!("too long: field headers.c: {reason} (12)")));
    assert_eq!(parse(shared, 8), Err(format!("too long: field headers.ab: {reason} (8)")));
    // The producer refuses these as records that are too large, which the rejected file keeps.
    assert_eq!(parse(r#"{"ab":"1","b":"2"}"#, 0), Ok(2));
    assert_eq!(parse(r#"[["ab","1"],["b","2"]]"#, 0), Ok(2));
}

#[test]
fn json_skips_blank_lines_and_a_byte_order_mark() {
    let input = b"\xef\xbb\xbf{\"value\":1}\r\n \n\n{\"value\":2}";
    let records = read_all(&json(), MAX_REQUEST_SIZE, 3, input);
    let values: Vec<_> = records.into_iter().map(|r| r.unwrap().1.unwrap()).collect();
    assert_eq!(values, [b"1", b"2"]);
}

#[test]
fn nesting_and_huge_numbers_do_no_harm() {
    let deep = "[".repeat(100_000) + &"]".repeat(100_000);
    let line = format!(r#"{{"value":{deep}}}"#);
    assert_eq!(parse_json(line.as_bytes()).unwrap().value.unwrap(), deep.as_bytes());
    assert!(parse_json(format!(r#"{{"headers":{deep},"value":1}}"#).as_bytes()).is_err());
    let number = "9".repeat(100_000);
    let line = format!(r#"{{"value":{number}}}"#);
    assert_eq!(parse_json(line.as_bytes()).unwrap().value.unwrap(), number.as_bytes());
    assert!(parse_json(format!(r#"{{"partition":{number},"value":1}}"#).as_bytes()).is_err());
}

#[test]
fn key_and_headers_of_the_options_complete_records_of_each_format() {
    let mut args = json();
    args.key = Some("k".into());
    args.header = vec!["a=1".into()];
    args.null_empty = true;
    let input = br#"{"key":"","value":"","headers":["b","2"]}"#;
    let expected = (Some(b"k".to_vec()), None, vec![Header::new("a", "1"), Header::new("b", "2")]);
    assert_eq!(read_all(&args, 100, 3, input), [Ok(expected)]);
}

#[test]
fn csv_row_becomes_an_object_or_stays_a_line() {
    let input = b"\xef\xbb\xbfid,name\r\n1,\"a \"\"b\"\",\r\nc\"\r\n\r\n2,\n";
    let args = InputArgs { key_column: Some("id".into()), ..csv() };
    let expect = |values: [&str; 2]| {
        let record = |key: &str, value: &str| (Some(key.into()), Some(value.into()), vec![]);
        [Ok(record("1", values[0])), Ok(record("2", values[1]))]
    };
    let objects = [r#"{"id":"1","name":"a \"b\",\r\nc"}"#, r#"{"id":"2","name":""}"#];
    for buffer in [1, 2, 3, 7, 1000] {
        let records = read_all(&with_input(args_of(&args)), MAX_REQUEST_SIZE, buffer, input);
        assert_eq!(records, expect(objects), "{buffer}");
        let lines = InputArgs { csv_value: Some(CsvValue::Line), ..args_of(&args) };
        let records = read_all(&with_input(lines), MAX_REQUEST_SIZE, buffer, input);
        assert_eq!(records, expect(["1,\"a \"\"b\"\",\r\nc\"", "2,"]), "{buffer}");
    }
    let semicolon = InputArgs { csv_delimiter: Some(";".into()), ..csv() };
    let records = read_all(&with_input(semicolon), 100, 10, b"a;b\n1;2,3");
    assert_eq!(records[0].as_ref().unwrap().1.as_deref(), Some(&br#"{"a":"1","b":"2,3"}"#[..]));
}

fn args_of(args: &InputArgs) -> InputArgs {
    InputArgs {
        format: args.format,
        key_column: args.key_column.clone(),
        csv_value: args.csv_value,
        ..InputArgs::default()
    }
}

#[test]
fn error_of_a_csv_row_names_its_line_and_a_bad_header_line_ends_the_input() {
    let errors = |input: &[u8]| -> Vec<String> {
        let records = read_all(&with_input(csv()), 100, 3, input);
        records.into_iter().filter_map(Result::err).collect()
    };
    assert_eq!(
        errors(b"a,b\n\"1\n\",2\n1\n1,2\n1,2,3\n"),
        [
            "line 4: expected 2 fields, as in the header line, found 1",
            "line 6: expected 2 fields, as in the header line, found 3"
        ]
    );
    assert_eq!(errors(b"a,b\n1,\xff\n"), ["line 2, field b: expected UTF-8, which JSON needs"]);
    assert_eq!(errors(b"a\n\n\n\"1\n2"), ["line 4: the input ends inside a quoted field"]);
    let long = [b"a\n", &vec![b'x'; 70_000][..], b"\ny\n"].concat();
    let longer = "longer than 65736 bytes, which max.request.size allows";
    assert_eq!(errors(&long), [format!("too long: line 2 is {longer}")]);
    assert_eq!(read_all(&with_input(csv()), 100, 3, &long).len(), 2);
    let open = [b"a\n\"", &vec![b'x'; 70_000][..], b"\ny\n"].concat();
    let reason = "line 2: the input ends inside a quoted field, and the row is";
    assert_eq!(errors(&open), [format!("{reason} {longer}")]);
    // Empty lines belong to no row.
    let blank = [b"a\n", &vec![b'\n'; 70_000][..], b"y\n", &vec![b'\n'; 70_000][..]].concat();
    let records = read_all(&with_input(csv()), 100, 3, &blank);
    assert!(records.len() == 1 && records[0].is_ok(), "{records:?}");
    assert_eq!(errors(b"a,a\n"), ["its header line has the column \"a\" twice"]);
    assert_eq!(errors(b""), [""; 0]);
    let keyed = with_input(InputArgs { key_column: Some("id".into()), ..csv() });
    let e = read_all(&keyed, 100, 3, b"a,b\n")[0].clone().unwrap_err();
    assert_eq!(e, "its header line has no column \"id\" but a, b");
}

#[test]
fn raw_values_stand_behind_their_lengths_or_have_one_size() {
    let values = |args: InputArgs, input: &[u8]| -> Vec<Result<Option<Vec<u8>>, String>> {
        let records = read_all(&with_input(args), 200, 3, input);
        records.into_iter().map(|r| r.map(|(_, value, _)| value)).collect()
    };
    let prefix = |form| InputArgs { length_prefix: Some(form), ..raw() };
    let expected = [Ok(Some(b"ab".to_vec())), Ok(None), Ok(Some(Vec::new()))];
    assert_eq!(values(raw(), b"\0\0\0\x02ab\xff\xff\xff\xff\0\0\0\0"), expected);
    let le32 = prefix(LengthPrefix::Le32);
    assert_eq!(values(le32, b"\x02\0\0\0ab\xff\xff\xff\xff\0\0\0\0"), expected);
    let long = [&b"\x02ab\x80\x01"[..], &[b'x'; 128]].concat();
    let read = values(prefix(LengthPrefix::Varint), &long);
    assert_eq!(read, [Ok(Some(b"ab".to_vec())), Ok(Some(vec![b'x'; 128]))]);
    let sized = || InputArgs { value_size: Some(2), ..raw() };
    assert_eq!(values(sized(), b"abcd"), [Ok(Some(b"ab".to_vec())), Ok(Some(b"cd".to_vec()))]);
    for (args, input, expected) in [
        (sized(), &b"abc"[..], "value 2: the input ends after 1 of a value's 2 bytes"),
        (raw(), b"\0\0\0\x02a", "value 1: the input ends after 1 of a value's 2 bytes"),
        (raw(), b"\0\0", "value 1: the input ends inside a length; expected 4 bytes"),
        (raw(), b"\xff\xff\xff\xfe", "value 1: -2 is no length of a value"),
        (raw(), b"\x7f\xff\xff\xff", "value 1: the input ends after 0 of a value's 2147483647"),
        (prefix(LengthPrefix::Varint), &[0xff; 9], "value 1: a length is longer than 5 bytes"),
    ] {
        let read = values(args, input);
        let e = read.last().unwrap().as_ref().unwrap_err();
        assert!(e.starts_with(expected), "{e}");
    }
    let too_long = [&b"\0\0\x01\0"[..], &[0; 256], b"\0\0\0\x01z"].concat();
    let read = values(raw(), &too_long);
    assert_eq!(read[0], Err("too long: value 1 is longer than max.request.size (200)".into()));
    assert_eq!(read[1], Ok(Some(b"z".to_vec())));
}

#[test]
fn option_of_another_format_is_refused() {
    let refuse = |args: ProduceArgs, expected: &str| {
        let e = RecordReader::new(&args, 100).err().expect("it is refused").message;
        assert!(e.contains(expected), "{e}");
    };
    refuse(ProduceArgs::default(), "no topic is given");
    let mut args = json();
    args.input.key_column = Some("id".into());
    refuse(args, "--key-column is for --format csv; the format is json");
    let mut args = json();
    args.key_delimiter = Some(":".into());
    refuse(args, "-K is for --format lines");
    for delimiter in ["", "ab", "\"", "é", "\n"] {
        let args = InputArgs { csv_delimiter: Some(delimiter.into()), ..csv() };
        refuse(with_input(args), "expected one ASCII character");
    }
}

/// Returns bytes that are a valid input, truncated or changed at some places, or any bytes.
fn damaged(valid: &'static [u8]) -> impl Strategy<Value = Vec<u8>> {
    let changes = prop::collection::vec((0..valid.len(), any::<u8>()), 0..4);
    let changed = (changes, 0..=valid.len()).prop_map(move |(changes, len)| {
        let mut bytes = valid.to_vec();
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        bytes.truncate(len);
        bytes
    });
    let structural = prop::sample::select(b"{}[]\",:\\u0e+-\n\r;tfn\xff\xc3\xa9 ".to_vec());
    prop_oneof![
        changed,
        prop::collection::vec(structural, 0..200),
        prop::collection::vec(any::<u8>(), 0..200)
    ]
}

/// Reads an input with several buffers. Each must give the same records, and none a panic.
fn reads_alike(args: &ProduceArgs, input: &[u8]) -> Result<(), TestCaseError> {
    let expected = read_all(args, 60, 1, input);
    prop_assert!(expected.len() <= input.len() + 1);
    for buffer in [2, 5, 1000] {
        prop_assert_eq!(&read_all(args, 60, buffer, input), &expected);
    }
    Ok(())
}

const JSON_LINES: &[u8] =
    br#"{"topic":"t","partition":1,"key":"k","value":{"a":[1,2.5e3,"\u00e9"]},"headers":{"a":"1"}}
{"key_base64":"AP8=","value":null,"headers":["a","1","b",null],"timestamp":1700000000000}
{"payload":"x\ny","ts":5,"tstype":"create","headers":[{"key":"a","value_base64":"AA=="},["b","c"]]}
"#;
const CSV_ROWS: &[u8] = b"id,name\r\n1,\"a \"\"quoted\"\" name\"\r\n2,plain\n\n3,\"two\nlines\"\n";
const LINES: &[u8] = b"a:1,b:2\tkey\tvalue\nNULL\tk\tv\n";
const RAW_VALUES: &[u8] = b"\0\0\0\x03abc\xff\xff\xff\xff\0\0\0\0\0\0\0\x05hello";

proptest! {
    #[test]
    fn no_json_input_panics(input in damaged(JSON_LINES)) {
        reads_alike(&json(), &input)?;
    }

    #[test]
    fn no_csv_input_panics(
        input in damaged(CSV_ROWS),
        line in any::<bool>(),
        key in any::<bool>(),
    ) {
        let csv_value = Some(if line { CsvValue::Line } else { CsvValue::Json });
        let key_column = key.then(|| "id".to_owned());
        reads_alike(&with_input(InputArgs { csv_value, key_column, ..csv() }), &input)?;
    }

    #[test]
    fn no_raw_input_panics(input in damaged(RAW_VALUES), form in 0..4) {
        let length_prefix = [LengthPrefix::Be32, LengthPrefix::Le32, LengthPrefix::Varint]
            .get(form as usize)
            .copied();
        let value_size = length_prefix.is_none().then_some(3);
        reads_alike(&with_input(InputArgs { length_prefix, value_size, ..raw() }), &input)?;
    }

    #[test]
    fn no_lines_panic(input in damaged(LINES), ignore in any::<bool>()) {
        let mut args = with_input(InputArgs::default());
        args.property = ["parse.key=true", "parse.headers=true"].map(String::from).to_vec();
        args.property.push(format!("ignore.error={ignore}"));
        reads_alike(&args, &input)?;
    }
}
