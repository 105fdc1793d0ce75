//! Checks that the options of the input fit its format.

use crate::CliError;
use crate::args::{InputArgs, InputFormat, ProduceArgs};
use crate::rate::Rate;

/// Refuses options that have no effect with the format.
pub(super) fn check(args: &ProduceArgs) -> Result<(), CliError> {
    let input = &args.input;
    let has_reader_property = !args.reader_property.is_empty() || !args.property.is_empty();
    let options = [
        ("--key-column", input.key_column.is_some(), InputFormat::Csv),
        ("--csv-value", input.csv_value.is_some(), InputFormat::Csv),
        ("--csv-delimiter", input.csv_delimiter.is_some(), InputFormat::Csv),
        ("--length-prefix", input.length_prefix.is_some(), InputFormat::Raw),
        ("--value-size", input.value_size.is_some(), InputFormat::Raw),
        ("-D", args.delimiter.is_some(), InputFormat::Lines),
        ("-K", args.key_delimiter.is_some(), InputFormat::Lines),
        ("--line-reader", args.line_reader.is_some(), InputFormat::Lines),
        ("--reader-property", has_reader_property, InputFormat::Lines),
        ("--reader-config", args.reader_config.is_some(), InputFormat::Lines),
    ];
    for (option, is_given, format) in options {
        if is_given && format != input.format {
            let (format, given) = (name(format), name(input.format));
            return Err(CliError::usage(format!(
                "{option} is for --format {format}; the format is {given}"
            )));
        }
    }
    if matches!(args.load.rate, Some(Rate::Timestamps(_))) && input.format != InputFormat::Json {
        return Err(CliError::usage(
            "--rate: only records of --format json have timestamps; give records or bytes a second",
        ));
    }
    if args.topic.is_none() && input.format != InputFormat::Json {
        return Err(CliError::usage(
            "no topic is given: use --topic; only records of --format json can name their topic",
        ));
    }
    Ok(())
}

fn name(format: InputFormat) -> &'static str {
    match format {
        InputFormat::Lines => "lines",
        InputFormat::Json => "json",
        InputFormat::Csv => "csv",
        InputFormat::Raw => "raw",
    }
}

/// Returns the byte between two fields of a row.
pub(super) fn csv_delimiter(input: &InputArgs) -> Result<u8, CliError> {
    match input.csv_delimiter.as_deref().map(str::as_bytes) {
        None => Ok(b','),
        Some(br"\t") => Ok(b'\t'),
        Some(&[byte]) if byte.is_ascii() && !matches!(byte, b'"' | b'\n' | b'\r') => Ok(byte),
        Some(_) => {
            let given = input.csv_delimiter.as_deref().unwrap_or_default();
            Err(CliError::usage(format!(
                "--csv-delimiter {given:?}: expected one ASCII character, or \\t, and no quote"
            )))
        }
    }
}
