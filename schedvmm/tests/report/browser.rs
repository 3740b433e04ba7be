// SPDX-License-Identifier: Apache-2.0
//! Headless Chromium: what a page looks like, what it asks for and complains about.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use libtest_mimic::Failed;
use serde_json::Value;

/// A page is shown in two seconds on an idle machine.
const DEADLINE: Duration = Duration::from_secs(60);

/// A browser.
#[derive(Clone)]
pub struct Browser {
    program: PathBuf,
}

/// What the user prefers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    Light,
    Dark,
}

/// A page as it was seen.
pub struct Look {
    pub picture: Picture,
    /// Lines of the console.
    pub complaints: Vec<String>,
    /// What the page asked for, but for files.
    pub requests: Vec<String>,
}

/// A screenshot in 24 bits.
pub struct Picture {
    pixels: Vec<[u8; 3]>,
}

impl Browser {
    /// The one named in CHROMIUM, or Debian's.
    pub fn find() -> Option<Self> {
        let named = std::env::var_os("CHROMIUM").map(PathBuf::from);
        let program = named.unwrap_or_else(|| "/usr/bin/chromium".into());
        program.exists().then_some(Self { program })
    }

    /// Opens a file in a window of this size.
    pub fn look(
        &self,
        file: &Path,
        scheme: Scheme,
        (width, height): (u32, u32),
    ) -> Result<Look, Failed> {
        let dir = tempfile::tempdir()?;
        let path = |name: &str| dir.path().join(name);
        let (picture, log, net) = (path("picture.png"), path("log"), path("net.json"));
        let preferred = match scheme {
            Scheme::Dark => 0,
            Scheme::Light => 1,
        };
        let mut command = Command::new(&self.program);
        // Root needs --no-sandbox, containers have a small /dev/shm; and nothing of the
        // browser's own is to reach the network.
        command
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
            .args(["--hide-scrollbars", "--no-first-run", "--disable-background-networking"])
            .args(["--enable-logging=stderr", "--host-resolver-rules=MAP * ~NOTFOUND"])
            .arg(format!("--blink-settings=preferredColorScheme={preferred}"))
            .arg(format!("--window-size={width},{height}"))
            .arg(format!("--user-data-dir={}", path("profile").display()))
            .arg(format!("--log-net-log={}", net.display()))
            .arg(format!("--screenshot={}", picture.display()))
            .arg(format!("file://{}", file.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log)?);
        let mut child = command.spawn()?;
        let end = Instant::now() + DEADLINE;
        while child.try_wait()?.is_none() {
            if Instant::now() > end {
                child.kill()?;
                child.wait()?;
                return Err(format!("Chromium showed no page within {DEADLINE:?}").into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let said = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
        let console = said.lines().filter(|line| line.contains(":CONSOLE"));
        Ok(Look {
            picture: Picture::open(&picture).map_err(|error| format!("{error:?}; {said}"))?,
            complaints: console.map(str::to_owned).collect(),
            requests: requests(&fs::read_to_string(&net)?)?,
        })
    }
}

/// Requests in Chromium's network log that a page made: the browser's own have no origin.
fn requests(log: &str) -> Result<Vec<String>, Failed> {
    // A browser that is ended leaves the list open.
    let whole = serde_json::from_str(log)
        .or_else(|_| serde_json::from_str(&format!("{}]}}", log.trim_end().trim_end_matches(','))));
    let log: Value = whole.map_err(|error| format!("the network log is none: {error}"))?;
    let types: BTreeMap<String, u64> =
        serde_json::from_value(log["constants"]["logEventTypes"].clone())?;
    let start = types.get("URL_REQUEST_START_JOB").ok_or("Chromium's log has other events")?;
    let events = log["events"].as_array().ok_or("the network log has no events")?;
    let started = events.iter().filter(|event| event["type"] == *start);
    let of_pages = started.filter(|event| {
        event["params"]["initiator"].as_str().is_some_and(|of| of != "not an origin")
    });
    let urls = of_pages.filter_map(|event| event["params"]["url"].as_str());
    Ok(urls.filter(|url| !url.starts_with("file:")).map(str::to_owned).collect())
}

impl Picture {
    fn open(path: &Path) -> Result<Self, Failed> {
        let mut reader = png::Decoder::new(BufReader::new(File::open(path)?)).read_info()?;
        let size = reader.output_buffer_size().ok_or("a picture too large")?;
        let mut bytes = vec![0; size];
        let frame = reader.next_frame(&mut bytes)?;
        let samples = frame.color_type.samples();
        if samples < 3 || frame.bit_depth != png::BitDepth::Eight {
            return Err(format!("an unexpected picture: {frame:?}").into());
        }
        let pixels = bytes[..frame.buffer_size()].chunks_exact(samples);
        Ok(Self { pixels: pixels.map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect() })
    }

    /// How many different colours it has.
    pub fn colours(&self) -> usize {
        self.pixels.iter().collect::<HashSet<_>>().len()
    }

    /// How bright its first pixel is, which is nothing but ground: 0 to 765.
    pub fn ground(&self) -> u32 {
        self.pixels.first().map_or(0, |pixel| pixel.iter().copied().map(u32::from).sum())
    }
}
