//! The codec of batches and its level (`compression.type`, `compression.*.level`).

use std::fmt;
use std::str::FromStr;

use ottla_protocol::compression::{Codec, Compressor};

use super::Properties;
use super::setting::find_setting;
use crate::error::Error;

/// The codec that compresses batches, with its level (`compression.type`, KIP-390).
///
/// ```
/// use ottla::{Compression, GzipLevel};
///
/// # fn main() -> Result<(), ottla::Error> {
/// let small = Compression::Gzip(GzipLevel::new(9)?);
/// assert_eq!(small.level(), Some(9));
/// assert_eq!("zstd".parse::<Compression>()?, Compression::zstd());
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Compression {
    /// Batches are sent uncompressed, the default.
    #[default]
    None,
    /// gzip.
    Gzip(GzipLevel),
    /// Snappy, which has no levels.
    Snappy,
    /// LZ4.
    Lz4(Lz4Level),
    /// Zstandard (KIP-110).
    Zstd(ZstdLevel),
}

/// Defines the level of a codec, whose range is that of its setting.
macro_rules! level {
    ($(#[$doc:meta])* $name:ident, $setting:literal, $codec:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub struct $name(i32);

        impl $name {
            /// Creates a level.
            ///
            /// # Errors
            /// [`ErrorKind::Config`](crate::ErrorKind::Config) if it is out of range. Whether this
            /// build has the level is checked when the producer is built.
            pub fn new(level: i32) -> Result<$name, Error> {
                parse_level($setting, &level.to_string()).map($name)
            }

            /// Returns the level as a number.
            pub fn get(self) -> i32 {
                self.0
            }
        }

        impl Default for $name {
            fn default() -> $name {
                $name($codec.default_level())
            }
        }
    };
}

level! {
    /// The level of gzip: 1 (fastest) to 9 (smallest output), or -1, the default of the library
    /// (`compression.gzip.level`).
    GzipLevel, "compression.gzip.level", Codec::Gzip
}
level! {
    /// The level of lz4, 1 to 17 (`compression.lz4.level`). 9 is the default and selects the fast
    /// encoder. Any other level needs a build with the feature `lz4-hc`.
    Lz4Level, "compression.lz4.level", Codec::Lz4
}
level! {
    /// The level of zstd, -131072 (fastest) to 22 (smallest output), by default 3
    /// (`compression.zstd.level`). Levels outside -7 to 4 need a build with the feature `zstd-c`.
    ZstdLevel, "compression.zstd.level", Codec::Zstd
}

/// Parses a level and checks it against the range of its setting.
fn parse_level(setting: &str, level: &str) -> Result<i32, Error> {
    let Some(setting) = find_setting(setting) else {
        return Err(Error::config(format!("{setting} is not a setting")));
    };
    let level = super::parse::check_value(setting, level, None)?;
    Ok(level.parse().unwrap_or_default())
}

/// Returns whether a setting is the level of a codec.
pub(super) fn is_level_name(setting: &str) -> bool {
    setting.starts_with("compression.") && setting.ends_with(".level")
}

impl Compression {
    /// Returns gzip at its default level.
    pub fn gzip() -> Compression {
        Compression::Gzip(GzipLevel::default())
    }

    /// Returns lz4 at its default level.
    pub fn lz4() -> Compression {
        Compression::Lz4(Lz4Level::default())
    }

    /// Returns zstd at its default level.
    pub fn zstd() -> Compression {
        Compression::Zstd(ZstdLevel::default())
    }

    /// Returns the level; `None` for a codec without levels.
    pub fn level(self) -> Option<i32> {
        match self {
            Compression::None | Compression::Snappy => None,
            Compression::Gzip(level) => Some(level.get()),
            Compression::Lz4(level) => Some(level.get()),
            Compression::Zstd(level) => Some(level.get()),
        }
    }

    /// Returns the codec as the protocol numbers it.
    pub(crate) fn codec(self) -> Codec {
        match self {
            Compression::None => Codec::None,
            Compression::Gzip(_) => Codec::Gzip,
            Compression::Snappy => Codec::Snappy,
            Compression::Lz4(_) => Codec::Lz4,
            Compression::Zstd(_) => Codec::Zstd,
        }
    }

    /// Returns the name of the setting that holds the level.
    pub(crate) fn level_name(self) -> String {
        format!("compression.{self}.level")
    }

    /// Returns whether batches are sent uncompressed.
    pub(crate) fn is_none(self) -> bool {
        self == Compression::None
    }

    fn with_level(codec: Codec, level: i32) -> Compression {
        match codec {
            Codec::None => Compression::None,
            Codec::Gzip => Compression::Gzip(GzipLevel(level)),
            Codec::Snappy => Compression::Snappy,
            Codec::Lz4 => Compression::Lz4(Lz4Level(level)),
            Codec::Zstd => Compression::Zstd(ZstdLevel(level)),
        }
    }

    /// Returns the codec and its level from the settings. A level for this codec alone takes
    /// precedence over librdkafka's `compression.level`, which is for any codec.
    pub(super) fn new(p: &Properties) -> Result<Compression, Error> {
        let codec = p.get_str("compression.type").parse::<Compression>()?.codec();
        let name = format!("compression.{codec}.level");
        let level = match &p.compression_level {
            _ if find_setting(&name).is_none() => 0,
            Some(level) if level != "-1" && p.value(&name).is_none() => {
                parse_level(&name, level)
                    .map_err(|e| Error::config(format!("compression.level: {e}")))?
            }
            _ => parse_level(&name, p.get_str(&name))?,
        };
        Compressor::new(codec, level)
            .map_err(|e| Error::config(format!("compression.type={codec}: {e}")))?;
        Ok(Compression::with_level(codec, level))
    }
}

/// The name of the codec, as in `compression.type`, without the level.
impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.codec().name())
    }
}

/// Parses the name of a codec, of any case, which then has its default level.
impl FromStr for Compression {
    type Err = Error;

    fn from_str(text: &str) -> Result<Compression, Error> {
        let name = text.trim();
        let codec = Codec::from_name(&name.to_ascii_lowercase()).ok_or_else(|| {
            Error::config(format!(
                "compression.type={name} is not valid; expected one of none, gzip, snappy, lz4, \
                 zstd"
            ))
        })?;
        Ok(Compression::with_level(codec, codec.default_level()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_codecs_are_parsed_as_they_are_shown() {
        for codec in Codec::ALL {
            let compression = codec.name().parse::<Compression>().unwrap();
            assert_eq!(
                (compression.codec(), compression.to_string().as_str()),
                (codec, codec.name())
            );
            assert_eq!(compression.level().unwrap_or(0), codec.default_level());
        }
        let e = "brotli".parse::<Compression>().unwrap_err().to_string();
        assert!(e.contains("compression.type=brotli") && e.contains("snappy"), "{e}");
    }

    #[test]
    fn levels_out_of_range_are_errors_that_name_the_range() {
        assert_eq!(Lz4Level::new(17).unwrap().get(), 17);
        let e = Lz4Level::new(18).unwrap_err().to_string();
        assert!(e.contains("compression.lz4.level=18") && e.contains("1 to 17"), "{e}");
        let e = GzipLevel::new(0).unwrap_err().to_string();
        assert!(e.contains("compression.gzip.level=0") && e.contains("1 to 9"), "{e}");
        assert!(ZstdLevel::new(23).is_err() && ZstdLevel::new(-131_072).is_ok());
    }
}
