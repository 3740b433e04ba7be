// SPDX-License-Identifier: Apache-2.0
//! A bzImage's compressed payload: unpacked once, straight to where the kernel runs.
//!
//! Page faults on fresh memory cost more than the decoding, so there is no temporary copy:
//! the payload is unpacked at such an address that its large segments are already in place,
//! and the others are moved down.

use std::io::Read;

use liblzma::stream::{Action, Status, Stream};
use thiserror::Error;

use crate::x86_64::elf::{ElfKernel, Segment, first_address, parse_elf};
use crate::x86_64::image::BzImage;
use crate::x86_64::image_error::ImageError;
use crate::x86_64::layout;
use crate::x86_64::magic::{MAX_XZ_BYTES, most_unpacked};
use crate::x86_64::packed::{Format, XZ_MEMORY_LIMIT, format};
use crate::x86_64::wrapped;

/// Where the first segment lies in the ELF file that Linux packs (its page size for
/// alignment is 2 MiB, arch/x86/kernel/vmlinux.lds.S). Only a guess at the best address.
const USUAL_FIRST_OFFSET: u64 = 2 << 20;
/// LZ4 legacy frame: blocks unpack to this many bytes, but the last.
const LZ4_BLOCK: usize = 8 << 20;
/// A copy of the unpacked file is made only of those that are smaller.
const MAX_COPIED_BYTES: usize = 120 << 20;

/// Why a payload could not be unpacked.
#[derive(Debug, Error)]
pub enum PayloadError {
    /// A compression we have no decoder for: boot by the stub.
    #[error("the payload's compression (magic {0:02x?}) is none of gzip, xz, lzma, lz4, zstd")]
    UnknownFormat(Vec<u8>),
    /// The decoder gave up.
    #[error(
        "its {format} payload does not unpack to the {claimed} bytes it claims: {reason}; \
         build or copy the kernel again"
    )]
    Damaged {
        /// Its format.
        format: Format,
        /// Size in its trailer.
        claimed: u32,
        /// The decoder's words.
        reason: String,
    },
    /// It unpacks to another size than it says.
    #[error(
        "its payload claims to unpack to {claimed} bytes, but unpacks to {got}; build or copy \
         the kernel again"
    )]
    Lies {
        /// Size in its trailer.
        claimed: u32,
        /// Bytes that came out before the end or the limit.
        got: u64,
    },
    /// It claims more than any kernel has.
    #[error(
        "its payload of {packed} bytes claims to unpack to {claimed}, and no kernel of that size to \
         more than {most}; build or copy the kernel again"
    )]
    Bomb {
        /// Bytes it is packed in.
        packed: usize,
        /// Size in its trailer.
        claimed: u32,
        /// What it may have.
        most: u64,
    },
    /// An .xz or .lzma payload that would take long.
    #[error(
        "its {format} payload has {packed} bytes, more than any kernel ({MAX_XZ_BYTES}); build it \
         with CONFIG_KERNEL_ZSTD or CONFIG_KERNEL_LZ4"
    )]
    Slow {
        /// Its format.
        format: Format,
        /// Bytes it is packed in.
        packed: usize,
    },
    /// Guest memory is too small for it.
    #[error("the kernel needs {needed_mib} MiB of memory; raise --memory")]
    TooLarge {
        /// Least memory in MiB.
        needed_mib: u64,
    },
    /// What came out is no kernel.
    #[error(transparent)]
    Image(#[from] ImageError),
}

/// Unpacks `image`'s payload into `low_ram` (guest RAM from address 0) and puts its segments
/// where they run.
///
/// # Errors
/// [`PayloadError::UnknownFormat`] leaves `low_ram` untouched; the others may leave garbage
/// above 1 MiB.
pub fn unpack(image: &BzImage, low_ram: &mut [u8]) -> Result<ElfKernel, PayloadError> {
    let payload = &image.bytes[image.payload.clone()];
    let format = format(payload)
        .ok_or_else(|| PayloadError::UnknownFormat(payload[..payload.len().min(4)].to_vec()))?;
    let claimed = claimed_size(payload);
    let pref_address = image.header.pref_address;
    let base = pref_address.saturating_sub(USUAL_FIRST_OFFSET).max(1 << 20);
    // Both are the file's claims: an address near the end of 64 bits must not wrap around.
    let end = base.saturating_add(u64::from(claimed));
    if end > layout::IDENTITY_MAP_END.0 {
        // No memory would be enough.
        let text = format!("its payload claims to unpack to [{base:#x}, {end:#x}), beyond 1 GiB");
        return Err(ImageError::Damaged(text).into());
    }
    let packed = payload.len();
    let most = most_unpacked(packed);
    if u64::from(claimed) > most {
        return Err(PayloadError::Bomb { packed, claimed, most });
    }
    if matches!(format, Format::Xz | Format::Lzma) && packed > MAX_XZ_BYTES {
        return Err(PayloadError::Slow { format, packed });
    }
    if end > low_ram.len() as u64 {
        // More memory helps, unless the header lies.
        check_preferred(image, first_address(&beginning(format, payload)))?;
        return Err(PayloadError::TooLarge { needed_mib: end.div_ceil(1 << 20) });
    }
    // Both are at most the length of `low_ram`.
    #[allow(clippy::cast_possible_truncation)]
    let (base, end) = (base as usize, end as usize);
    let got = decode(format, payload, &mut low_ram[base..end])?;
    if got != claimed as usize {
        return Err(PayloadError::Lies { claimed, got: got as u64 });
    }
    let kernel = parse_elf(&low_ram[base..end])?;
    check_preferred(image, kernel.segments.first().map(|segment| segment.address))?;
    check_size(image, &kernel, claimed)?;
    place(&kernel, base, end, low_ram)?;
    Ok(kernel)
}

/// Refuses a header that names another address than the kernel is linked to, both of which are its
/// LOAD_PHYSICAL_ADDR (arch/x86/boot/header.S, arch/x86/kernel/vmlinux.lds.S). `first` is where its
/// first segment is to lie, as far as that is known.
fn check_preferred(image: &BzImage, first: Option<u64>) -> Result<(), ImageError> {
    let preferred = image.header.pref_address;
    match first {
        Some(first) if first != preferred => Err(ImageError::Damaged(format!(
            "its header prefers the address {preferred:#x}, and the kernel in it is linked to {first:#x}"
        ))),
        _ => Ok(()),
    }
}

/// Refuses a header that claims far more memory than the kernel in it takes to unpack and to run
/// (arch/x86/boot/header.S, `INIT_SIZE`: the larger of the two, and little more).
fn check_size(image: &BzImage, kernel: &ElfKernel, claimed: u32) -> Result<(), ImageError> {
    const MAX_FACTOR: u64 = 2;
    const ROOM: u64 = 32 << 20;
    let end = kernel.segments.last().map_or(0, Segment::end);
    let takes = u64::from(claimed).max(end.saturating_sub(image.header.pref_address));
    let init_size = u64::from(image.header.init_size);
    if init_size <= takes * MAX_FACTOR + ROOM {
        return Ok(());
    }
    Err(ImageError::Damaged(format!(
        "its header claims {init_size:#x} bytes of memory, and the kernel in it takes {takes:#x}"
    )))
}

/// The beginning of what is packed; nothing where it cannot be unpacked.
fn beginning(format: Format, payload: &[u8]) -> Vec<u8> {
    if format != Format::Lz4 {
        return wrapped::peek(payload);
    }
    let block = payload.get(4..).and_then(|rest| rest.split_first_chunk::<4>());
    let block = block.and_then(|(length, rest)| rest.get(..u32::from_le_bytes(*length) as usize));
    let mut out = vec![0; LZ4_BLOCK];
    match block.map(|block| lz4_flex::block::decompress_into(block, &mut out)) {
        Some(Ok(length)) => out.truncate(length),
        _ => out.clear(),
    }
    out
}

/// The size in the payload's last four bytes: gzip's own trailer, or what the kernel build
/// appends to all other formats (scripts/Makefile.lib, `size_append`).
fn claimed_size(payload: &[u8]) -> u32 {
    payload.last_chunk::<4>().map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

/// Unpacks into `out`, which has exactly the claimed size. Returns the bytes written.
fn decode(format: Format, payload: &[u8], out: &mut [u8]) -> Result<usize, PayloadError> {
    let claimed = claimed_size(payload);
    let stream = &payload[..payload.len().saturating_sub(4)];
    match format {
        Format::Gzip => decode_gzip(payload, out),
        Format::Zstd => zstd::bulk::decompress_to_buffer(stream, out)
            .map_err(|e| damaged(e.to_string(), format, claimed)),
        Format::Xz | Format::Lzma => decode_xz(format, payload, out),
        Format::Lz4 => decode_lz4(stream, out).map_err(|reason| damaged(reason, format, claimed)),
    }
}

/// To the stream's end: its checksum, which comes last, is compared only by whoever reads on when
/// all bytes are there.
fn decode_gzip(payload: &[u8], out: &mut [u8]) -> Result<usize, PayloadError> {
    let claimed = claimed_size(payload);
    let mut decoder = flate2::bufread::GzDecoder::new(payload);
    let (mut filled, mut beyond) = (0, [0]);
    loop {
        let rest = if filled < out.len() { &mut out[filled..] } else { &mut beyond[..] };
        match decoder.read(rest).map_err(|e| damaged(e.to_string(), Format::Gzip, claimed))? {
            0 => return Ok(filled),
            n => filled += n,
        }
        if filled > out.len() {
            return Err(PayloadError::Lies { claimed, got: filled as u64 });
        }
    }
}

/// The same of .xz, and of .lzma, which has a mark at its end and no checksum.
fn decode_xz(format: Format, payload: &[u8], out: &mut [u8]) -> Result<usize, PayloadError> {
    let claimed = claimed_size(payload);
    let stream = &payload[..payload.len().saturating_sub(4)];
    let decoder = match format {
        Format::Lzma => Stream::new_lzma_decoder(XZ_MEMORY_LIMIT),
        _ => Stream::new_stream_decoder(XZ_MEMORY_LIMIT, 0),
    };
    let mut decoder = decoder.map_err(|e| damaged(e.to_string(), format, claimed))?;
    let mut beyond = [0];
    let mut status = Status::Ok;
    for room in [out, &mut beyond[..]] {
        let read = usize::try_from(decoder.total_in()).unwrap_or(usize::MAX);
        let rest = stream.get(read..).unwrap_or_default();
        status = decoder
            .process(rest, room, Action::Finish)
            .map_err(|e| damaged(e.to_string(), format, claimed))?;
        if status == Status::StreamEnd {
            break;
        }
    }
    let got = decoder.total_out();
    match status {
        Status::StreamEnd => Ok(usize::try_from(got).unwrap_or(usize::MAX)),
        _ if got > u64::from(claimed) => Err(PayloadError::Lies { claimed, got }),
        other => Err(damaged(format!("ended early ({other:?})"), format, claimed)),
    }
}

fn damaged(reason: String, format: Format, claimed: u32) -> PayloadError {
    PayloadError::Damaged { format, claimed, reason }
}

/// LZ4 legacy frame: magic, then blocks of a little-endian length and data
/// (lib/decompress_unlz4.c).
fn decode_lz4(mut input: &[u8], out: &mut [u8]) -> Result<usize, String> {
    let magic = *input.first_chunk::<4>().ok_or("no magic")?;
    let mut filled = 0;
    while let Some((length, rest)) = input.split_first_chunk::<4>() {
        if *length == magic {
            input = rest;
            continue;
        }
        let length = u32::from_le_bytes(*length) as usize;
        if length == 0 {
            break;
        }
        let block =
            rest.get(..length).ok_or_else(|| format!("a block of {length} bytes is cut"))?;
        let room = &mut out[filled..];
        let limit = room.len().min(LZ4_BLOCK);
        filled += lz4_flex::block::decompress_into(block, &mut room[..limit])
            .map_err(|e| e.to_string())?;
        input = &rest[length..];
    }
    Ok(filled)
}

/// Moves each segment from the unpacked file at `base..end` to its address and clears the
/// rest of its memory.
fn place(
    kernel: &ElfKernel,
    base: usize,
    end: usize,
    low_ram: &mut [u8],
) -> Result<(), PayloadError> {
    let kernel_end = kernel.segments.iter().map(|segment| segment.end()).max().unwrap_or(0);
    if kernel_end > low_ram.len() as u64 {
        return Err(PayloadError::TooLarge { needed_mib: kernel_end.div_ceil(1 << 20) });
    }
    // Everything below was checked against the file and against the end of low RAM.
    #[allow(clippy::cast_possible_truncation)]
    let moves: Vec<_> = kernel
        .segments
        .iter()
        .map(|s| {
            (base + s.offset as usize, s.address as usize, s.file_len as usize, s.end() as usize)
        })
        .collect();
    let unpacked_len = end - base;
    // In ascending order, a move downwards never overwrites a segment still to be moved.
    let in_order = moves.windows(2).all(|pair| pair[0].0 + pair[0].2 <= pair[1].0);
    if in_order && moves.iter().all(|(from, to, ..)| to <= from) {
        for &(from, to, len, _) in moves.iter().filter(|(from, to, ..)| from != to) {
            low_ram.copy_within(from..from + len, to);
        }
    } else if end - base > MAX_COPIED_BYTES {
        return Err(ImageError::Damaged("its segments are in no order".into()).into());
    } else {
        let file = low_ram[base..end].to_vec();
        for &(from, to, len, _) in &moves {
            low_ram[to..to + len].copy_from_slice(&file[from - base..from - base + len]);
        }
    }
    for &(_, to, len, end) in &moves {
        // The rest is of a machine that has not run, and zero.
        let (zero, unpacked) = (to + len..end, base..base + unpacked_len);
        let (from, to) = (zero.start.max(unpacked.start), zero.end.min(unpacked.end));
        if from < to {
            low_ram[from..to].fill(0);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::x86_64::elf::flat_kernel;
    use crate::x86_64::image::{KernelImage, tests as images};

    const MIB: usize = 1 << 20;

    fn word(len: usize) -> [u8; 4] {
        u32::try_from(len).expect("small").to_le_bytes()
    }

    fn with_size(mut packed: Vec<u8>, size: usize) -> Vec<u8> {
        packed.extend_from_slice(&word(size));
        packed
    }

    fn lz4_legacy(bytes: &[u8]) -> Vec<u8> {
        let mut packed = vec![0x02, 0x21, 0x4c, 0x18];
        for block in bytes.chunks(LZ4_BLOCK) {
            let data = lz4_flex::block::compress(block);
            packed.extend_from_slice(&word(data.len()));
            packed.extend_from_slice(&data);
        }
        packed
    }

    /// `bytes` in each format, as the kernel's build packs them.
    fn pack(format: Format, bytes: &[u8]) -> Vec<u8> {
        match format {
            Format::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), Default::default());
                encoder.write_all(bytes).expect("gzip");
                encoder.finish().expect("gzip")
            }
            Format::Xz => {
                let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 6);
                encoder.write_all(bytes).expect("xz");
                with_size(encoder.finish().expect("xz"), bytes.len())
            }
            Format::Lzma => {
                let options = liblzma::stream::LzmaOptions::new_preset(6).expect("lzma");
                let stream = Stream::new_lzma_encoder(&options).expect("lzma");
                let mut encoder = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
                encoder.write_all(bytes).expect("lzma");
                with_size(encoder.finish().expect("lzma"), bytes.len())
            }
            Format::Lz4 => with_size(lz4_legacy(bytes), bytes.len()),
            Format::Zstd => with_size(zstd::bulk::compress(bytes, 3).expect("zstd"), bytes.len()),
        }
    }

    fn image(payload: &[u8]) -> BzImage {
        match KernelImage::parse(images::bzimage(payload)) {
            Ok(KernelImage::BzImage(image)) => image,
            other => panic!("{other:?}"),
        }
    }

    fn noise(len: usize) -> Vec<u8> {
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_be_bytes()[0] & 0xf
        };
        (0..len).map(|_| next()).collect()
    }

    #[test]
    fn every_format_lands_at_its_address() {
        for format in [Format::Gzip, Format::Xz, Format::Lzma, Format::Lz4, Format::Zstd] {
            // LZ4's legacy frame has blocks of 8 MiB: more than one of them there.
            let code = noise(if format == Format::Lz4 { 9 * MIB } else { MIB });
            let elf = flat_kernel(0x100_0000, &code);
            let payload = pack(format, &elf);
            assert_eq!(super::format(&payload), Some(format));
            let mut ram = vec![0xaa; 48 * MIB];
            let kernel = unpack(&image(&payload), &mut ram).expect("unpacks");
            assert_eq!(kernel.entry, 0x100_0000);
            assert!(ram[0x100_0000..0x100_0000 + code.len()] == code, "{format:?}");
            assert!(ram[..0x10_0000].iter().all(|b| *b == 0xaa), "below 1 MiB untouched");
        }
    }

    #[test]
    fn unknown_format_is_told_before_anything_is_written() {
        let mut ram = vec![0xaa; 32 * MIB];
        let result = unpack(&image(b"BZh9 not for us"), &mut ram);
        assert!(matches!(result, Err(PayloadError::UnknownFormat(magic)) if magic == b"BZh9"));
        assert!(ram.iter().all(|byte| *byte == 0xaa));
    }

    #[test]
    fn false_sizes_and_damage_are_errors() {
        let elf = flat_kernel(0x100_0000, &noise(MIB / 4));
        for format in [Format::Gzip, Format::Xz, Format::Lzma, Format::Lz4, Format::Zstd] {
            let good = pack(format, &elf);
            let last = good.len() - 4;
            for claim in [0, 100, elf.len() - 1, elf.len() + 1, 40 * MIB, u32::MAX as usize] {
                let mut lie = good.clone();
                lie[last..].copy_from_slice(&word(claim));
                let result = unpack(&image(&lie), &mut vec![0; 32 * MIB]);
                assert!(result.is_err(), "{format:?} claiming {claim}");
            }
            let cut = with_size(good[..last / 2].to_vec(), elf.len());
            assert!(unpack(&image(&cut), &mut vec![0; 32 * MIB]).is_err(), "{format:?} cut");
        }
    }

    /// As `zstd` packs, and the kernel's build with it.
    fn zstd_with_checksum(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).expect("zstd");
        encoder.include_checksum(true).expect("zstd");
        encoder.set_pledged_src_size(Some(bytes.len() as u64)).expect("zstd");
        encoder.write_all(bytes).expect("zstd");
        encoder.finish().expect("zstd")
    }

    /// Bytes that no format packs any further: one that is changed comes out changed, and nothing but
    /// a checksum tells.
    fn incompressible(len: usize) -> Vec<u8> {
        let mut state = 1u64;
        std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            state.to_be_bytes()[0]
        })
        .take(len)
        .collect()
    }

    #[test]
    fn a_single_bit_is_told_where_there_is_a_checksum() {
        let elf = flat_kernel(0x100_0000, &incompressible(MIB / 4));
        let zstd = with_size(zstd_with_checksum(&elf), elf.len());
        for (format, good) in [
            (Format::Gzip, pack(Format::Gzip, &elf)),
            (Format::Xz, pack(Format::Xz, &elf)),
            (Format::Zstd, zstd),
        ] {
            assert!(good.len() > MIB / 4, "{format:?} packs this, and may tell by itself");
            unpack(&image(&good), &mut vec![0; 32 * MIB]).expect("it is good");
            // In what is packed, and at its end: the checksum itself.
            let inside = (1..16).map(|part| good.len() / 16 * part);
            for at in inside.chain([good.len() - 5, good.len() - 8]) {
                let mut flipped = good.clone();
                flipped[at] ^= 1;
                let result = unpack(&image(&flipped), &mut vec![0; 32 * MIB]);
                let is_told = matches!(result, Err(PayloadError::Damaged { .. }));
                assert!(is_told, "{format:?}, byte {at} of {}: {result:?}", good.len());
            }
        }
    }

    #[test]
    fn what_no_memory_is_enough_for_asks_for_none() {
        let mut payload = pack(Format::Gzip, &flat_kernel(0x100_0000, &noise(1000)));
        let last = payload.len() - 4;
        payload[last..].fill(0xff);
        let error = unpack(&image(&payload), &mut vec![0; 32 * MIB]).expect_err("a lie");
        let text = error.to_string();
        assert!(text.contains("damaged: its payload claims") && text.contains("beyond 1 GiB"));
        let mut far = image(&pack(Format::Gzip, &flat_kernel(0x100_0000, &noise(1000))));
        far.header.pref_address = u64::MAX;
        let error = unpack(&far, &mut vec![0; 32 * MIB]).expect_err("nowhere");
        assert!(error.to_string().contains("beyond 1 GiB"), "{error}");
    }

    #[test]
    fn what_unpacks_to_more_than_a_kernel_is_refused_before_it_does() {
        // 100 KB of zstd for a GiB, in steps of what claims it.
        let mut payload = pack(Format::Zstd, &flat_kernel(0x100_0000, &vec![0; 40 * MIB]));
        let packed = payload.len();
        let mut ram = vec![0; 64 * MIB];
        let mut refused = |claim: usize, payload: &mut Vec<u8>| {
            let last = payload.len() - 4;
            payload[last..].copy_from_slice(&word(claim));
            unpack(&image(payload), &mut ram).expect_err("too much")
        };
        assert!(packed < 100 << 10, "{packed}");
        for claim in [40 * MIB, 240 * MIB, 500 * MIB] {
            let error = refused(claim, &mut payload);
            assert!(matches!(error, PayloadError::Bomb { .. }), "{claim}: {error}");
        }
        // As many bytes as it may have, of a file that has more.
        let error = refused(32 * MIB, &mut payload);
        assert!(matches!(error, PayloadError::Damaged { .. }), "{error}");
        let mut slow = vec![0xfd, b'7', b'z', b'X', b'Z', 0];
        slow.resize(MAX_XZ_BYTES + 16, 0);
        let error = refused(MIB, &mut slow);
        assert!(matches!(error, PayloadError::Slow { .. }), "{error}");
    }

    /// Whatever memory there is: with too little of it, more would not help.
    #[test]
    fn a_header_that_lies_about_its_address_is_no_lack_of_memory() {
        for format in [Format::Gzip, Format::Xz, Format::Lzma, Format::Lz4, Format::Zstd] {
            let mut image = image(&pack(format, &flat_kernel(0x100_0000, &noise(MIB))));
            for bit in 20..30 {
                image.header.pref_address = 0x100_0000 ^ 1 << bit;
                for memory in [32 * MIB, 64 * MIB] {
                    let error = unpack(&image, &mut vec![0; memory]).expect_err("a lie");
                    let text = error.to_string();
                    assert!(text.contains("is linked to 0x1000000"), "{format:?} {bit}: {text}");
                }
            }
        }
        let mut image = image(&pack(Format::Gzip, &flat_kernel(0x100_0000, &noise(MIB))));
        image.header.init_size = 1 << 29;
        let error = unpack(&image, &mut vec![0; 32 * MIB]).expect_err("a lie").to_string();
        assert!(error.contains("claims 0x20000000 bytes of memory"), "{error}");
    }

    #[test]
    fn too_little_memory_says_how_much_is_needed() {
        let payload = pack(Format::Lz4, &flat_kernel(0x100_0000, &noise(4 * MIB)));
        let result = unpack(&image(&payload), &mut vec![0; 16 * MIB]);
        assert!(matches!(result, Err(PayloadError::TooLarge { needed_mib: 19 })), "{result:?}");
    }
}
