// SPDX-License-Identifier: Apache-2.0
//! Kernels, modules and packages for tests: small, but with all the parts of real ones.

use std::io::Write;

use object::write::{Object, StandardSegment};
use object::{Architecture, BinaryFormat, Endianness, SectionKind};
use vmm::x86_64::elf::flat_kernel;

/// A vmlinux of this release with `text` in it, which does nothing.
pub fn vmlinux(release: &str, text: &str) -> Vec<u8> {
    let banner = format!("\0Linux version {release} (tester) #1 SMP\n\0{text}\0");
    flat_kernel(0x100_0000, banner.as_bytes())
}

/// A module that says this of itself, with a signature behind it.
pub fn module(depends: &str, release: &str) -> Vec<u8> {
    let mut file = Object::new(BinaryFormat::Elf, Architecture::X86_64, Endianness::Little);
    let segment = file.segment_name(StandardSegment::Data).to_vec();
    let section = file.add_section(segment, b".modinfo".to_vec(), SectionKind::ReadOnlyData);
    let info = format!("license=GPL\0depends={depends}\0vermagic={release} SMP mod_unload \0");
    file.append_section_data(section, info.as_bytes(), 1);
    let mut bytes = file.write().expect("an ELF file");
    bytes.extend_from_slice(b"~Module signature appended~\n");
    bytes
}

/// How a package, or a module, is packed.
#[derive(Clone, Copy, Debug)]
pub enum Pack {
    /// Not at all.
    Plain,
    Gzip,
    Bzip2,
    Xz,
    Zstd,
}

impl Pack {
    /// `bytes` packed so.
    pub fn pack(self, bytes: Vec<u8>) -> Vec<u8> {
        match self {
            Self::Plain => bytes,
            Self::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), Default::default());
                encoder.write_all(&bytes).expect("gzip");
                encoder.finish().expect("gzip")
            }
            Self::Xz => xz(&bytes),
            Self::Bzip2 => {
                let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), Default::default());
                encoder.write_all(&bytes).expect("bzip2");
                encoder.finish().expect("bzip2")
            }
            // With a checksum, as dpkg has it made.
            Self::Zstd => {
                let mut encoder = zstd::stream::Encoder::new(Vec::new(), 3).expect("zstd");
                encoder.include_checksum(true).expect("zstd");
                encoder.write_all(&bytes).expect("zstd");
                encoder.finish().expect("zstd")
            }
        }
    }
}

/// `bytes` in an .xz container.
pub fn xz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 6);
    encoder.write_all(bytes).expect("xz");
    encoder.finish().expect("xz")
}

/// A Debian package with these files.
pub fn deb(files: &[(&str, &[u8])], pack: Pack) -> Vec<u8> {
    let mut data = tar::Builder::new(Vec::new());
    for (path, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        data.append_data(&mut header, path, *bytes).expect("a member");
    }
    deb_of(&pack.pack(data.into_inner().expect("an archive")))
}

/// A Debian package with this archive of its files.
pub fn deb_of(data: &[u8]) -> Vec<u8> {
    let mut package = ar::Builder::new(Vec::new());
    add_member("debian-binary", b"2.0\n", &mut package);
    add_member("control.tar", &[0; 1024], &mut package);
    add_member("data.tar", data, &mut package);
    package.into_inner().expect("a package")
}

fn add_member(name: &str, bytes: &[u8], package: &mut ar::Builder<Vec<u8>>) {
    let header = ar::Header::new(name.into(), bytes.len() as u64);
    package.append(&header, bytes).expect("a member");
}

/// An RPM package with these files.
pub fn rpm(files: &[(&str, &[u8])], pack: Pack) -> Vec<u8> {
    let mut payload = Vec::new();
    for (path, bytes) in files {
        let len = u32::try_from(bytes.len()).expect("small");
        let builder = cpio::newc::Builder::new(path).mode(0o100_644);
        let mut member = builder.write(&mut payload, len);
        member.write_all(bytes).expect("a member");
        member.finish().expect("a member");
    }
    cpio::newc::trailer(&mut payload).expect("a trailer");
    let mut package = vec![0; 96];
    package[..4].copy_from_slice(b"\xed\xab\xee\xdb");
    // A signature of one entry and 5 bytes, which is padded to 8; a header of two and 3 bytes.
    for (entries, store, padding) in [(1u32, 5u32, 3), (2, 3, 0)] {
        package.extend_from_slice(b"\x8e\xad\xe8\x01\0\0\0\0");
        package.extend_from_slice(&entries.to_be_bytes());
        package.extend_from_slice(&store.to_be_bytes());
        let len = (entries * 16 + store) as usize + padding;
        package.resize(package.len() + len, 0);
    }
    package.extend_from_slice(&pack.pack(payload));
    package
}
