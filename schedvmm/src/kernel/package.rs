// SPDX-License-Identifier: Apache-2.0
//! A kernel in a package that was not unpacked: .deb and .rpm. Only what is of use is kept, and
//! nothing is written anywhere.
//!
//! Sources: deb(5); the RPM file format, version 4 (lead, signature header, header, payload), as
//! docs/manual/format_v4.md of RPM has it. Every length in a package is a claim to be checked.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek};
use std::path::{Path, PathBuf};

use vmm::x86_64::image::MAX_IMAGE_BYTES;
use vmm::x86_64::{packed, payload};

use super::config::{Configuration, MAX_CONFIG_BYTES, Source};
use super::modules::{self, Modules};
use super::{Found, KernelFileError};

const DEB_MAGIC: &[u8] = b"!<arch>\ndebian-binary";
const RPM_MAGIC: &[u8] = b"\xed\xab\xee\xdb";
/// Of the lead of an RPM package.
const RPM_LEAD_LEN: u64 = 96;
/// What begins each header of an RPM package, with its version.
const RPM_HEADER_MAGIC: [u8; 4] = [0x8e, 0xad, 0xe8, 1];
/// What begins each file in packages of RPM 6, in place of cpio's "070701".
const RPM_6_MAGIC: &[u8] = b"07070X";
/// RPM itself takes no larger one (lib/header.c, `headerMaxbytes`).
const MAX_RPM_HEADER_BYTES: u64 = 256 << 20;
/// No package of a kernel unpacks to more; a bound for hostile ones.
const MAX_UNPACKED_BYTES: u64 = 16 << 30;
/// Type of a file in its mode, and that of a regular one (inode(7)).
const MODE_TYPE: u32 = 0o170_000;
const MODE_REGULAR: u32 = 0o100_000;

/// A file of a kernel's package, by its path there; each with the kernel's release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Member<'a> {
    /// The kernel.
    Kernel(&'a str),
    /// Its configuration.
    Config(&'a str),
    /// The list of what is built in.
    Builtin(&'a str),
    /// The list of modules.
    Order(&'a str),
    /// A module.
    Module,
}

impl<'a> Member<'a> {
    /// The kernel's name in a folder of its release.
    pub const KERNEL: &'static str = "vmlinuz";

    /// What is at `path`, from the root; `None` for what is of no use here.
    fn of(path: &'a str) -> Option<Self> {
        let path = path.strip_prefix("usr/").unwrap_or(path);
        if let Some(name) = path.strip_prefix("boot/") {
            let kernel = name.strip_prefix("vmlinuz-").map(Self::Kernel);
            return kernel.or_else(|| name.strip_prefix("config-").map(Self::Config));
        }
        let (release, name) = path.strip_prefix("lib/modules/")?.split_once('/')?;
        match name {
            Self::KERNEL => Some(Self::Kernel(release)),
            "config" => Some(Self::Config(release)),
            modules::BUILTIN => Some(Self::Builtin(release)),
            modules::ORDER => Some(Self::Order(release)),
            _ => name.starts_with("kernel/").then_some(Self::Module),
        }
    }
}

/// A package.
pub struct Package {
    path: PathBuf,
    file: BufReader<File>,
    kind: Kind,
}

enum Kind {
    Deb,
    Rpm,
}

impl Package {
    /// Opens `path` if it is a package.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn open(path: &Path) -> io::Result<Option<Self>> {
        let mut file = BufReader::new(File::open(path)?);
        let mut head = Vec::new();
        (&mut file).take(DEB_MAGIC.len() as u64).read_to_end(&mut head)?;
        let kind = if head == DEB_MAGIC {
            Kind::Deb
        } else if head.starts_with(RPM_MAGIC) {
            Kind::Rpm
        } else {
            return Ok(None);
        };
        file.rewind()?;
        Ok(Some(Self { path: path.to_owned(), file, kind }))
    }

    /// The one kernel in it, with what else tells of that.
    ///
    /// # Errors
    /// There is none, there are several, or the package is damaged.
    pub fn kernel(self) -> Result<Found, KernelFileError> {
        let Self { path, file, kind } = self;
        let mut contents = Contents::default();
        let read = match kind {
            Kind::Deb => deb(file, &mut contents),
            Kind::Rpm => rpm(file, &mut contents),
        };
        read.map_err(|error| KernelFileError::Package {
            path: path.clone(),
            reason: error.to_string(),
        })?;
        contents.kernel(path)
    }
}

/// What was found in a package.
#[derive(Default)]
struct Contents {
    /// Release, path and bytes; bytes of the first one only.
    kernels: Vec<(String, String, Vec<u8>)>,
    /// Path and text by release.
    configs: HashMap<String, (String, String)>,
    builtin: HashMap<String, String>,
    order: HashMap<String, String>,
    files: usize,
    modules: usize,
}

impl Contents {
    /// Looks at one regular file of the package.
    fn take(&mut self, path: &str, mut file: impl Read) -> io::Result<()> {
        // Tools differ in how they begin.
        let path = path.trim_start_matches("./").trim_start_matches('/');
        self.files += 1;
        match Member::of(path) {
            Some(Member::Kernel(release)) => {
                // One package has copies of one kernel.
                if self.kernels.iter().any(|(other, ..)| other == release) {
                    return Ok(());
                }
                let mut bytes = Vec::new();
                if self.kernels.is_empty() {
                    file.by_ref().take(MAX_IMAGE_BYTES).read_to_end(&mut bytes)?;
                }
                self.kernels.push((release.to_owned(), path.to_owned(), bytes));
            }
            Some(Member::Config(release)) => {
                let config = (path.to_owned(), text(file)?);
                self.configs.insert(release.to_owned(), config);
            }
            Some(Member::Builtin(release)) => {
                self.builtin.insert(release.to_owned(), text(file)?);
            }
            Some(Member::Order(release)) => {
                self.order.insert(release.to_owned(), text(file)?);
            }
            Some(Member::Module) => self.modules += 1,
            None => {}
        }
        Ok(())
    }

    fn kernel(mut self, path: PathBuf) -> Result<Found, KernelFileError> {
        if self.kernels.len() > 1 {
            let names: Vec<_> = self.kernels.iter().map(|(_, member, _)| member.as_str()).collect();
            let kernels = names.join(", ");
            return Err(KernelFileError::Several { path, kernels });
        }
        let Some((release, member, bytes)) = self.kernels.pop() else {
            let holds = match (self.files, self.modules) {
                (0, _) => "it is empty".to_owned(),
                (files, 0) => format!("{files} files, and no module either"),
                (_, modules) => format!("{modules} modules"),
            };
            return Err(KernelFileError::NoKernel { path, holds });
        };
        let mut notes = Vec::new();
        let config = self.configs.remove(&release).and_then(|(member, text)| {
            let source = Source::Package(path.clone(), member);
            let parsed = Configuration::parse(&text, source, Some(&release));
            parsed.map_err(|why| notes.push(why)).ok()
        });
        let modules = self.builtin.remove(&release).map(|builtin| {
            let order = self.order.remove(&release);
            Modules::new(path.display().to_string(), &builtin, order.as_deref())
        });
        Ok(Found { path, member: Some(member), bytes, config, modules, notes })
    }
}

/// A text file of a package.
fn text(file: impl Read) -> io::Result<String> {
    let mut bytes = Vec::new();
    file.take(MAX_CONFIG_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn invalid(text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.into())
}

/// What is packed in `packed`, or `packed` itself.
fn unpacked<'a>(mut packed: impl BufRead + 'a, what: &str) -> io::Result<Box<dyn Read + 'a>> {
    let head = packed.fill_buf()?;
    if head.starts_with(b"BZh") {
        return Err(invalid(format!("{what} is packed with bzip2, which is not read here")));
    }
    let reader: Box<dyn Read + 'a> = match payload::format(head) {
        Some(format) => packed::reader(format, packed)?,
        None => Box::new(packed),
    };
    Ok(Box::new(reader.take(MAX_UNPACKED_BYTES)))
}

/// An ar archive of a version, the archive control.tar, and data.tar with the files.
fn deb(file: impl Read, contents: &mut Contents) -> io::Result<()> {
    let mut archive = ar::Archive::new(file);
    while let Some(member) = archive.next_entry() {
        let member = member?;
        if !member.header().identifier().starts_with(b"data.tar") {
            continue;
        }
        let mut data = tar::Archive::new(unpacked(BufReader::new(member), "data.tar")?);
        for entry in data.entries()? {
            let entry = entry?;
            if entry.header().entry_type().is_file() {
                let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
                contents.take(&path, entry)?;
            }
        }
        return Ok(());
    }
    Err(invalid("it has no data.tar"))
}

/// A lead, two headers, and a packed cpio archive of the files.
fn rpm(mut file: impl BufRead, contents: &mut Contents) -> io::Result<()> {
    skip(&mut file, RPM_LEAD_LEN)?;
    let signature = rpm_header(&mut file)?;
    // The signature alone is padded, to 8 bytes.
    skip(&mut file, signature.wrapping_neg() & 7)?;
    rpm_header(&mut file)?;
    let mut payload = BufReader::new(unpacked(file, "its payload")?);
    if payload.fill_buf()?.starts_with(RPM_6_MAGIC) {
        return Err(invalid("its files are in the format of RPM 6, which is not read here"));
    }
    loop {
        let mut member = cpio::newc::Reader::new(payload)?;
        if member.entry().is_trailer() {
            return Ok(());
        }
        let path = member.entry().name().to_owned();
        if member.entry().mode() & MODE_TYPE == MODE_REGULAR {
            contents.take(&path, &mut member)?;
        }
        payload = member.finish()?;
    }
}

/// Skips a header of an RPM package, and tells how long it was.
fn rpm_header(file: &mut impl Read) -> io::Result<u64> {
    let mut intro = [0; 16];
    file.read_exact(&mut intro)?;
    if !intro.starts_with(&RPM_HEADER_MAGIC) {
        return Err(invalid("it has no RPM header"));
    }
    let word = |at: usize| {
        intro[at..].first_chunk::<4>().map_or(0, |bytes| u64::from(u32::from_be_bytes(*bytes)))
    };
    // Entries of 16 bytes, then what they point to.
    let len = word(8) * 16 + word(12);
    if len > MAX_RPM_HEADER_BYTES {
        return Err(invalid(format!("its header claims {len} bytes")));
    }
    skip(file, len)?;
    Ok(16 + len)
}

fn skip(file: &mut impl Read, len: u64) -> io::Result<()> {
    match io::copy(&mut file.take(len), &mut io::sink())? {
        skipped if skipped < len => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
