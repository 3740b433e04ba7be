// SPDX-License-Identifier: Apache-2.0
//! Good kernel files to be bent: small, but with all the parts of real ones.

use std::io::Write;

/// Where the ELF file's headers end.
pub const ELF_HEADERS: usize = 64 + 4 * 56;
/// Blocks of LZ4's legacy frame unpack to this many bytes.
const LZ4_BLOCK: usize = 8 << 20;
const TEXT: u64 = 0x100_0000;

/// `len` bytes that compress to about half.
pub fn noise(len: usize) -> Vec<u8> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0] & 0xf
    };
    (0..len).map(|_| next()).collect()
}

/// An ELF kernel of text, data with room behind it, memory without file, and a note.
pub fn elf(code: &[u8]) -> Vec<u8> {
    let (len, half) = (code.len() as u64, code.len() as u64 / 2);
    let start = ELF_HEADERS as u64;
    let note = start + len;
    let mut file = vec![0; 64];
    file[..8].copy_from_slice(b"\x7fELF\x02\x01\x01\0");
    file[16..24].copy_from_slice(&[2, 0, 62, 0, 1, 0, 0, 0]);
    file[24..32].copy_from_slice(&TEXT.to_le_bytes());
    file[32] = 64;
    file[52] = 64;
    file[54] = 56;
    file[56] = 4;
    // Type, flags, offset, address, bytes in the file, bytes in memory.
    for [kind, flags, offset, address, in_file, in_memory] in [
        [1, 5, start, TEXT, half, half],
        [1, 6, start + half, TEXT + (2 << 20), len - half, 1 << 20],
        [1, 6, note, TEXT + (4 << 20), 0, 1 << 20],
        [4, 4, note, 0, 20, 20],
    ] {
        file.extend_from_slice(&kind.to_le_bytes()[..4]);
        file.extend_from_slice(&flags.to_le_bytes()[..4]);
        for word in [offset, address, address, in_file, in_memory, 0x20_0000u64] {
            file.extend_from_slice(&word.to_le_bytes());
        }
    }
    file.extend_from_slice(code);
    // A Xen note with a 32-bit entry point, which the loader looks for.
    for word in [4u32, 4, 18, u32::from_le_bytes(*b"Xen\0"), 0x100_0000] {
        file.extend_from_slice(&word.to_le_bytes());
    }
    file
}

/// A bzImage of protocol 2.15 around `payload`, that has a stub as far as headers tell.
pub fn bzimage(payload: &[u8]) -> Vec<u8> {
    let mut file = vec![0u8; 5 * 512];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    let len = u32::try_from(payload.len()).expect("small");
    put(0, b"MZ");
    put(0x1f4, &(len / 16).to_le_bytes()); // syssize
    put(0x1fe, &0xaa55u16.to_le_bytes());
    put(0x201, &[0x66]);
    put(0x202, b"HdrS");
    put(0x206, &0x20fu16.to_le_bytes());
    put(0x20e, &0x100u16.to_le_bytes()); // kernel_version
    put(0x211, &[1]); // loadflags
    put(0x214, &0x10_0000u32.to_le_bytes()); // code32_start
    put(0x22c, &0x7fff_ffffu32.to_le_bytes()); // initrd_addr_max
    put(0x230, &0x20_0000u32.to_le_bytes()); // kernel_alignment
    put(0x234, &[1]); // relocatable_kernel
    put(0x236, &[1]); // xloadflags
    put(0x238, &2047u32.to_le_bytes()); // cmdline_size
    put(0x24c, &len.to_le_bytes()); // payload_length
    put(0x258, &0x100_0000u64.to_le_bytes()); // pref_address
    put(0x260, &0x80_0000u32.to_le_bytes()); // init_size
    put(0x300, b"6.12.0 (tester@host)\0");
    file.extend_from_slice(payload);
    file
}

/// `bytes` in `format`, as the kernel's build packs them: the size is appended.
pub fn pack(format: &str, bytes: &[u8]) -> Vec<u8> {
    let mut packed = match format {
        "gzip" => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), Default::default());
            encoder.write_all(bytes).expect("gzip");
            // gzip has the size in its own trailer.
            return encoder.finish().expect("gzip");
        }
        "xz" => {
            let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 6);
            encoder.write_all(bytes).expect("xz");
            encoder.finish().expect("xz")
        }
        "lzma" => {
            let options = liblzma::stream::LzmaOptions::new_preset(6).expect("lzma");
            let stream = liblzma::stream::Stream::new_lzma_encoder(&options).expect("lzma");
            let mut encoder = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
            encoder.write_all(bytes).expect("lzma");
            encoder.finish().expect("lzma")
        }
        "lz4" => {
            let mut packed = vec![0x02, 0x21, 0x4c, 0x18];
            for block in bytes.chunks(LZ4_BLOCK) {
                let data = lz4_flex::block::compress(block);
                packed.extend_from_slice(&u32::try_from(data.len()).expect("small").to_le_bytes());
                packed.extend_from_slice(&data);
            }
            packed
        }
        "zstd" => zstd::bulk::compress(bytes, 3).expect("zstd"),
        other => panic!("no packer for {other}"),
    };
    packed.extend_from_slice(&u32::try_from(bytes.len()).expect("small").to_le_bytes());
    packed
}
