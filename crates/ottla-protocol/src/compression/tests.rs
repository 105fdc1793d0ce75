use super::*;
use crate::wire::TestRng;

fn random_text(g: &mut TestRng, n: usize) -> Vec<u8> {
    (0..n).map(|i| if i % 7 < 4 { b'a' + (i % 5) as u8 } else { g.next_u64() as u8 }).collect()
}

fn available_codecs() -> impl Iterator<Item = Codec> {
    Codec::ALL.into_iter().filter(|c| Compressor::new(*c, c.default_level()).is_ok())
}

#[test]
fn codecs_round_trip_all_sizes() {
    let mut g = TestRng::new(1);
    for codec in available_codecs() {
        let mut compressor = Compressor::new(codec, codec.default_level()).unwrap();
        for n in [0, 1, 2, 61, 1000, 32 * 1024, 32 * 1024 + 1, 64 * 1024, 65 * 1024, 300_000] {
            let input = random_text(&mut g, n);
            let mut out = b"kept".to_vec();
            compressor.compress(&input, &mut out).unwrap();
            assert_eq!(&out[..4], b"kept", "{codec}");
            assert_eq!(decompress(codec, &out[4..], n).as_ref(), Ok(&input), "{codec} {n}");
        }
    }
}

#[test]
fn levels_round_trip_or_fail_with_the_name_of_their_feature() {
    let input = random_text(&mut TestRng::new(2), 20_000);
    for (codec, levels) in [
        (Codec::Gzip, (1..=9).chain([-1]).collect::<Vec<_>>()),
        (Codec::Lz4, (1..=17).collect()),
        (Codec::Zstd, vec![-131_072, -7, -5, -1, 0, 1, 2, 3, 4, 12, 19, 22]),
    ] {
        for level in levels {
            match Compressor::new(codec, level) {
                Ok(mut c) => {
                    let mut out = Vec::new();
                    c.compress(&input, &mut out).unwrap();
                    assert_eq!(
                        decompress(codec, &out, 20_000).as_ref(),
                        Ok(&input),
                        "{codec} {level}"
                    );
                }
                Err(e) => assert!(!e.feature.is_empty(), "{e}"),
            }
        }
    }
    #[cfg(not(feature = "lz4-hc"))]
    assert!(Compressor::new(Codec::Lz4, 3).unwrap_err().to_string().contains("lz4-hc"));
}

#[test]
fn decompression_bomb_stops_at_the_limit() {
    let zeros = vec![0; 8 << 20];
    for codec in available_codecs() {
        let mut out = Vec::new();
        Compressor::new(codec, codec.default_level()).unwrap().compress(&zeros, &mut out).unwrap();
        let e = decompress(codec, &out, 1 << 20).unwrap_err().to_string();
        assert!(e.contains("exceeds 1048576"), "{codec}: {e}");
    }
    // A snappy block of nine bytes that declares four gigabytes fails before any allocation.
    #[cfg(feature = "snappy")]
    {
        let block = [0xff, 0xff, 0xff, 0xff, 0x0f, 0, 0, 0, 0];
        assert!(decompress(Codec::Snappy, &block, usize::MAX).is_err());
    }
}

#[test]
fn damaged_and_truncated_input_does_not_panic() {
    let mut g = TestRng::new(3);
    let input = random_text(&mut g, 3000);
    for codec in available_codecs().skip(1) {
        let mut good = Vec::new();
        Compressor::new(codec, codec.default_level()).unwrap().compress(&input, &mut good).unwrap();
        for len in 0..good.len() {
            if let Ok(out) = decompress(codec, &good[..len], 4000) {
                assert!(out.len() <= input.len(), "{codec} truncated to {len} bytes");
            }
        }
        for _ in 0..2000 {
            let mut bad = good.clone();
            let at = g.next_below(bad.len() as u64) as usize;
            bad[at] ^= 1 << g.next_below(8);
            let _ = decompress(codec, &bad, 4000);
        }
    }
}

// CASES: B2.
#[cfg(feature = "snappy")]
#[test]
fn snappy_writes_xerial_framing_and_reads_raw_blocks() {
    let mut out = Vec::new();
    let input = vec![b'x'; 70_000];
    Compressor::new(Codec::Snappy, 0).unwrap().compress(&input, &mut out).unwrap();
    assert_eq!(out[..16], *b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01");
    let raw = snap::raw::Encoder::new().compress_vec(&input).unwrap();
    assert_eq!(decompress(Codec::Snappy, &raw, 70_000), Ok(input));
}

// CASES: B2.
#[cfg(feature = "lz4")]
#[test]
fn lz4_writes_the_frame_of_java_and_reads_other_frames() {
    use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};
    use std::io::Write;
    let input = random_text(&mut TestRng::new(4), 200_000);
    let mut out = Vec::new();
    Compressor::new(Codec::Lz4, 9).unwrap().compress(&input, &mut out).unwrap();
    assert_eq!(out[..7], [0x04, 0x22, 0x4d, 0x18, 0x60, 0x40, 0x82]);
    assert_eq!(out[out.len() - 4..], [0; 4]);
    for size in [BlockSize::Max64KB, BlockSize::Max256KB, BlockSize::Max1MB, BlockSize::Max4MB] {
        let info = FrameInfo::new()
            .block_size(size)
            .block_mode(BlockMode::Linked)
            .content_size(Some(input.len() as u64))
            .content_checksum(true)
            .block_checksums(true);
        let mut e = FrameEncoder::with_frame_info(info, Vec::new());
        e.write_all(&input).unwrap();
        let frame = e.finish().unwrap();
        assert_eq!(decompress(Codec::Lz4, &frame, 200_000).as_ref(), Ok(&input), "{size:?}");
    }
}

/// A compressor keeps its hash table, so what it compressed before must not change its output.
#[cfg(all(feature = "lz4", feature = "snappy"))]
#[test]
fn reused_compressor_writes_what_a_new_one_writes() {
    for codec in [Codec::Lz4, Codec::Snappy] {
        let mut g = TestRng::new(6);
        let new = || Compressor::new(codec, codec.default_level()).unwrap();
        let mut reused = new();
        for n in [200_000, 10, 65_536, 0, 30_000, 131_073] {
            let random: Vec<u8> = (0..n).map(|_| g.next_u64() as u8).collect();
            for input in [random_text(&mut g, n), random] {
                let (mut out, mut expected) = (Vec::new(), Vec::new());
                reused.compress(&input, &mut out).unwrap();
                new().compress(&input, &mut expected).unwrap();
                assert!(out == expected, "{codec}, {n} bytes");
            }
        }
    }
}

#[cfg(feature = "lz4")]
#[test]
fn lz4_output_is_as_short_as_that_of_the_library() {
    use lz4_flex::frame::{BlockMode, BlockSize, FrameEncoder, FrameInfo};
    use std::io::Write;
    let mut g = TestRng::new(5);
    let mut compressor = Compressor::new(Codec::Lz4, 9).unwrap();
    for n in [200_000, 10, 65_536, 0, 30_000, 131_073] {
        let random: Vec<u8> = (0..n).map(|_| g.next_u64() as u8).collect();
        for input in [random_text(&mut g, n), random] {
            let mut out = Vec::new();
            compressor.compress(&input, &mut out).unwrap();
            let info = FrameInfo::new().block_mode(BlockMode::Independent);
            let info = info.block_size(BlockSize::Max64KB);
            let mut library = FrameEncoder::with_frame_info(info, Vec::new());
            library.write_all(&input).unwrap();
            let theirs = library.finish().unwrap().len();
            assert!(out.len() * 100 <= theirs * 101, "{n} bytes: {} and {theirs}", out.len());
            assert_eq!(decompress(Codec::Lz4, &out, n), Ok(input), "{n} bytes");
        }
    }
}

/// The encoder reads and writes without bounds checks. Its input is an exact allocation, so that
/// Valgrind and sanitizers see a read beyond it.
#[cfg(feature = "lz4")]
#[test]
fn lz4_round_trips_inputs_around_the_edges_of_blocks() {
    let mut g = TestRng::new(7);
    let mut compressor = Compressor::new(Codec::Lz4, 9).unwrap();
    let edges = [0_usize, 1000, 16 * 1024, 64 * 1024, 128 * 1024];
    for n in edges.into_iter().flat_map(|edge| edge.saturating_sub(32)..edge + 33) {
        for kind in 0..3 {
            let input: Vec<u8> = match kind {
                0 => random_text(&mut g, n),
                1 => (0..n).map(|_| g.next_below(3) as u8).collect(),
                _ => runs(&mut g, n),
            };
            let input = input.into_boxed_slice();
            let mut out = Vec::new();
            compressor.compress(&input, &mut out).unwrap();
            let decompressed = decompress(Codec::Lz4, &out, n).unwrap();
            assert!(decompressed == *input, "{n} bytes of kind {kind}");
        }
    }
}

/// Runs of up to 300 equal bytes, some of them a copy of earlier bytes.
#[cfg(feature = "lz4")]
fn runs(g: &mut TestRng, n: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = Vec::with_capacity(n);
    while bytes.len() < n {
        let room = n - bytes.len();
        let len = (g.next_below(300) as usize + 1).min(room);
        if bytes.is_empty() || g.next_below(2) == 0 {
            bytes.resize(bytes.len() + len, g.next_u64() as u8);
        } else {
            let from = g.next_below(bytes.len() as u64) as usize;
            bytes.extend_from_within(from..(from + len).min(bytes.len()));
        }
    }
    bytes
}

// CASES: B2.
#[cfg(all(feature = "gzip", feature = "zstd"))]
#[test]
fn concatenated_members_and_frames_are_one_stream() {
    for codec in [Codec::Gzip, Codec::Zstd] {
        let mut out = Vec::new();
        let mut c = Compressor::new(codec, codec.default_level()).unwrap();
        c.compress(b"one", &mut out).unwrap();
        c.compress(b"two", &mut out).unwrap();
        assert_eq!(decompress(codec, &out, 10).unwrap(), b"onetwo", "{codec}");
    }
}

/// Compares the Rust encoder with the C library at all levels, with text and random bytes.
///
/// One encoder compresses all inputs of a level, as the producer reuses it.
#[cfg(all(feature = "zstd", not(feature = "zstd-c")))]
#[test]
fn rust_zstd_and_the_c_library_read_each_others_frames() {
    let mut g = TestRng::new(6);
    for level in -7..=4 {
        let mut c = Compressor::new(Codec::Zstd, level).unwrap();
        for round in 0..60 {
            let n = [0, 1, 100, 1000, 16_000, 130_000, 600_000][round % 7];
            let n = n + g.next_below(n as u64 / 2 + 2) as usize;
            let input: Vec<u8> = match round % 3 {
                0 => random_text(&mut g, n),
                1 => (0..n).map(|_| g.next_u64() as u8).collect(),
                _ => (0..n)
                    .map(|i| {
                        b"{\"id\":17,\"name\":\"x\"}"[i % 20] + u8::from(g.next_below(40) == 0)
                    })
                    .collect(),
            };
            let mut out = Vec::new();
            c.compress(&input, &mut out).unwrap();
            let decompressed = ::zstd::bulk::decompress(&out, input.len().max(1)).unwrap();
            assert!(decompressed == input, "level {level}, {n} bytes");
            let c_frame = ::zstd::bulk::compress(&input, level).unwrap();
            assert!(
                decompress(Codec::Zstd, &c_frame, n).unwrap() == input,
                "level {level}, {n} bytes"
            );
        }
    }
}
