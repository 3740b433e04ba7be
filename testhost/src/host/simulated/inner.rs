// SPDX-License-Identifier: Apache-2.0
//! The inner end of the simulated machine's channels: streams like the ports of the emulated one,
//! for PID 1 to use alike. What is written to them becomes records on the disk; what comes over the
//! serial line is for whoever reads the status stream.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, anyhow};
use rustix::termios::{self, OptionalActions};

use super::OUTBOX_SECTOR;
use super::ata::Disk;
use super::image::SECTOR;
use super::outbox::{self, Channel};

/// The serial line, which is the console, too.
const SERIAL: &str = "/dev/ttyS0";

/// The channels.
#[derive(Clone)]
pub(in crate::host) struct Channels(Arc<Mutex<Outbox>>);

struct Outbox {
    disk: Disk,
    sector: u64,
    sequence: u64,
}

impl Outbox {
    fn send(&mut self, channel: Channel, data: &[u8]) -> Result<()> {
        let len = outbox::encode(self.disk.buffer(), self.sequence, channel, data);
        self.disk.write(self.sector, len)?;
        self.sequence += 1;
        self.sector += (len / SECTOR) as u64;
        Ok(())
    }
}

impl Channels {
    /// Finds the disk.
    ///
    /// # Errors
    /// There is none that can be used.
    pub(in crate::host) fn open() -> Result<Self> {
        let disk = Disk::open()?;
        Ok(Self(Arc::new(Mutex::new(Outbox { disk, sector: OUTBOX_SECTOR, sequence: 0 }))))
    }

    /// A stream whose bytes go to this channel.
    ///
    /// # Errors
    /// No sockets are left.
    pub(in crate::host) fn stream(&self, channel: Channel) -> Result<File> {
        let (theirs, ours) = UnixStream::pair().context("cannot make a socket pair")?;
        if channel == Channel::Status {
            listen(ours.try_clone().context("cannot share a socket")?)?;
        }
        let outbox = Arc::clone(&self.0);
        std::thread::spawn(move || {
            if let Err(error) = forward(ours, channel, &outbox) {
                // The console is the last way out.
                eprintln!("PID 1 of the simulated host: {error:#}");
            }
        });
        Ok(File::from(OwnedFd::from(theirs)))
    }
}

/// Makes records of what comes.
fn forward(mut from: UnixStream, channel: Channel, outbox: &Mutex<Outbox>) -> Result<()> {
    let mut data = vec![0; outbox::MAX_DATA];
    loop {
        let len = match from.read(&mut data) {
            Ok(0) => return Ok(()),
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error).context("cannot read what is to be sent"),
        };
        let mut outbox = outbox.lock().unwrap_or_else(PoisonError::into_inner);
        outbox.send(channel, &data[..len]).context("cannot write to the disk")?;
    }
}

/// Passes on what comes over the serial line, byte by byte as it is.
fn listen(mut to: UnixStream) -> Result<()> {
    let mut serial =
        File::open(SERIAL).with_context(|| format!("cannot open the serial line `{SERIAL}`"))?;
    let mut settings = termios::tcgetattr(&serial)?;
    settings.make_raw();
    termios::tcsetattr(&serial, OptionalActions::Now, &settings)?;
    std::thread::spawn(move || {
        let mut bytes = [0; 16];
        loop {
            let passed = serial.read(&mut bytes).and_then(|len| to.write_all(&bytes[..len]));
            if let Err(error) = passed {
                eprintln!("{:#}", anyhow!(error).context("no more signals for the command"));
                return;
            }
        }
    });
    Ok(())
}
