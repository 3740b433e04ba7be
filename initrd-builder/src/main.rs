// SPDX-License-Identifier: Apache-2.0
//! `initrd-builder`: an initial RAM file system from files of this machine, for a person who
//! wants the archive as a file. `schedvmm` itself composes its own in memory.

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use initrd_builder::{Archive, InitrdError};

/// Writes an uncompressed newc archive with /dev/console, /dev/null and the usual mount points.
#[derive(Parser)]
#[command(version)]
struct Options {
    /// Where to write the archive.
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// The executable that becomes /init, with the shared libraries it needs.
    #[arg(long, value_name = "EXE")]
    init: Option<PathBuf>,
    /// A further executable under a path of your choice, with its shared libraries.
    #[arg(long = "executable", value_name = "GUEST=HOST", value_parser = parse_pair)]
    executables: Vec<(String, PathBuf)>,
    /// A further file as it is, readable by all, executable if it is so here.
    #[arg(long = "file", value_name = "GUEST=HOST", value_parser = parse_pair)]
    files: Vec<(String, PathBuf)>,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let result = compose(&options).map_err(Box::<dyn Error>::from).and_then(|bytes| {
        std::fs::write(&options.output, bytes)
            .map_err(|error| format!("cannot write `{}`: {error}", options.output.display()).into())
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprint!("initrd-builder: {error}");
            let mut source = error.source();
            while let Some(cause) = source {
                eprint!(": {cause}");
                source = cause.source();
            }
            eprintln!();
            ExitCode::FAILURE
        }
    }
}

fn compose(options: &Options) -> Result<Vec<u8>, InitrdError> {
    let mut archive = Archive::new();
    archive.standard_nodes()?;
    if let Some(init) = &options.init {
        archive.add_executable("/init", init)?;
    }
    for (guest, host) in &options.executables {
        archive.add_executable(guest, host)?;
    }
    for (guest, host) in &options.files {
        use std::os::unix::fs::PermissionsExt;
        let metadata = std::fs::metadata(host)
            .map_err(|source| InitrdError::Read { path: host.clone(), source })?;
        let executable = metadata.permissions().mode() & 0o111 != 0;
        archive.file_from(guest, if executable { 0o755 } else { 0o644 }, host)?;
    }
    Ok(archive.finish())
}

fn parse_pair(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((guest, host)) if !guest.is_empty() && !host.is_empty() => {
            Ok((guest.into(), host.into()))
        }
        _ => Err("expected GUEST=HOST, for example /etc/hosts=./hosts".into()),
    }
}
