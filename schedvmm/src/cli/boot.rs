// SPDX-License-Identifier: Apache-2.0
//! Options of `schedvmm boot`.

use std::path::PathBuf;

use clap::Args;

use super::MachineArgs;
use crate::units;

/// Options of `boot`.
#[derive(Debug, Args)]
pub struct BootArgs {
    /// The kernel, named as for the main job.
    #[arg(long, value_name = "KERNEL", value_parser = units::named())]
    pub kernel: PathBuf,
    /// An initial RAM file system, as the kernel takes it.
    #[arg(long, value_name = "FILE", value_parser = units::named())]
    pub initrd: Option<PathBuf>,
    /// A virtio-console port of this name that writes to FILE; may be repeated.
    #[arg(long, value_parser = port, value_name = "NAME=FILE")]
    pub port: Vec<(String, PathBuf)>,
    /// What the machine is like.
    #[command(flatten)]
    pub machine: MachineArgs,
}

fn port(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        // The console is there.
        Some((_, "-")) => Err("stdout shows the console: give the port a file".to_owned()),
        Some((name, file)) if !name.is_empty() && !file.is_empty() => {
            Ok((name.to_owned(), file.into()))
        }
        _ => Err("expected NAME=FILE, such as bulk=/tmp/dump".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_have_a_name_and_a_file() {
        assert_eq!(port("bulk=/tmp/a=b"), Ok(("bulk".into(), "/tmp/a=b".into())));
        for bad in ["", "bulk", "=x", "bulk=", "bulk=-"] {
            assert!(port(bad).is_err(), "{bad}");
        }
    }
}
