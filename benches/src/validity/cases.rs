// SPDX-License-Identifier: Apache-2.0
//! The runs of the product, and which figures of each have a known answer.

use std::fmt::Write as _;
use std::path::Path;
use std::{fs, io};

use anyhow::{Context, Result};
use results::model::{RunResult, RunTimes};
use results::{saved, selftest};
use serde::Deserialize;
use testhost::kernel::Variant;

use super::rows::{self, Row};

/// One run of the product. It leaves its JSON in a folder of its name.
pub(super) struct Case {
    /// Its name.
    name: &'static str,
    /// What is run; words that begin with $ are in [`WORDS`].
    command: &'static str,
    /// Its rows.
    judge: Judge,
    /// It takes a large part of all the time.
    pub(super) is_long: bool,
    /// The kernel that it runs on, that of the host.
    pub(super) kernel: Variant,
}

/// From what a case has printed to its rows.
enum Judge {
    /// A result, and if the case left a trace, what `explain --run` says of that.
    Run(fn(&RunResult, Option<&RunTimes>) -> Vec<Row>),
    /// The self-test's table.
    Selftest(fn(&[selftest::Case]) -> Vec<Row>),
}

/// What `explain --run --json` prints, as far as it is judged.
#[derive(Deserialize)]
struct Explained {
    run: RunTimes,
}

/// All of them, in their order.
pub(super) const CASES: &[Case] = &[
    short("groups-2", "schedvmm host --groups 2 $busy", |result, _| rows::turns_on_host(2, result)),
    short("groups-4", "schedvmm host --groups 4 $busy", |result, _| rows::turns_on_host(4, result)),
    short("groups-8", "schedvmm host --groups 8 $busy", |result, _| rows::turns_on_host(8, result)),
    short(
        "weights",
        "schedvmm host --preset weights --load-cpus 3 --cosched none --duration 3s $plain",
        |result, _| rows::shares(result),
    ),
    short("two-cookie", "schedvmm host --preset two-cookie --duration 2s $traced", rows::half_idle),
    Case {
        name: "self-test",
        command: "schedvmm selftest --json",
        judge: Judge::Selftest(rows::made),
        is_long: false,
        kernel: Variant::Test,
    },
    Case {
        name: "guest",
        command: "schedvmm --kernel /bzImage --memory 512M --pin 0,1,2,3 --boot-timeout 120s \
                  --preset busy --duration 2s $traced",
        judge: Judge::Run(rows::guest),
        is_long: true,
        kernel: Variant::Test,
    },
    Case {
        name: "yield",
        command: YIELD,
        judge: Judge::Run(rows::yields),
        is_long: true,
        kernel: Variant::Test,
    },
    Case {
        name: "yield-runs-away",
        command: YIELD,
        judge: Judge::Run(rows::yields_and_runs_away),
        is_long: true,
        kernel: Variant::YieldRunsAway,
    },
];

/// As published, but for its length.
const YIELD: &str = "schedvmm host --preset yield --load-cpus 2,3 --duration 12500ms $plain";

const fn short(
    name: &'static str,
    command: &'static str,
    judge: fn(&RunResult, Option<&RunTimes>) -> Vec<Row>,
) -> Case {
    Case { name, command, judge: Judge::Run(judge), is_long: false, kernel: Variant::Test }
}

/// What commands have in common. Nothing ends a run early, its seed is no other's, and what is known
/// beforehand is known of all of it.
const WORDS: &str = "\
export common='--seed 1 --warmup 0s --threshold off --noise off --tune hrtick=on --output r --json'
export plain=\"$common --trace off\"
export busy=\"--threads 2 --busy 1h --sleep fixed:0s --cosched none --duration 2s $plain\"
export traced=\"$common --tune schedstats=on --trace-dump always\"
";
/// Seconds of the simulated machine's time that a case may take; the longest takes 25.
const LIMIT_S: u32 = 180;
/// What the product says of the whole trace of a case.
const EXPLAINED: &str = "explained.json";

/// These cases as one shell script, in which one that fails or hangs stops no other. Each says its
/// name when it begins.
pub(super) fn script(cases: &[&Case]) -> String {
    let mut text = WORDS.to_owned();
    for Case { name, command, .. } in cases {
        // Writing to a String does not fail.
        let _ = write!(
            text,
            "echo {name}\nmkdir {name}\ncd {name}\n\
             timeout -s KILL {LIMIT_S} sh -c '{command}' > stdout 2> stderr < /dev/null\n\
             [ ! -e r/trace.dat ] || \
             timeout -s KILL {LIMIT_S} schedvmm explain r --run --json > {EXPLAINED}\n\
             rm -rf r\ncd ..\n"
        );
    }
    text.push_str("exit 0\n");
    text
}

impl Case {
    /// The rows of what it left in its folder of `out`.
    pub(super) fn rows(&self, out: &Path) -> Vec<Row> {
        let folder = out.join(self.name);
        self.judged(&folder).unwrap_or_else(|error| {
            let said = fs::read_to_string(folder.join("stderr")).unwrap_or_default();
            let last = said.lines().last().unwrap_or("nothing on stderr");
            vec![Row::missing(self.name, format!("{error:#}: {last}"))]
        })
    }

    fn judged(&self, folder: &Path) -> Result<Vec<Row>> {
        let printed = fs::read_to_string(folder.join("stdout")).context("it left no JSON")?;
        Ok(match self.judge {
            Judge::Run(judge) => {
                let result = saved::printed(&printed).context("it left no result")?;
                let times = explained(&folder.join(EXPLAINED))?;
                judge(&result, times.as_ref())
            }
            Judge::Selftest(judge) => {
                let table: selftest::Selftest =
                    serde_json::from_str(&printed).context("it left no self-test")?;
                judge(&table.cases)
            }
        })
    }
}

/// What was said of its trace, if it left one. A case without has rows that say so.
fn explained(path: &Path) -> Result<Option<RunTimes>> {
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        text => text.context("its explanation cannot be read")?,
    };
    let explained: Explained =
        serde_json::from_str(&text).context("its trace was not explained")?;
    Ok(Some(explained.run))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_case_has_a_folder_and_a_time_limit() {
        let all: Vec<&Case> = CASES.iter().collect();
        let script = script(&all);
        for case in &all {
            assert!(script.contains(&format!("\nmkdir {0}\ncd {0}\n", case.name)), "{script}");
            assert!(!case.command.contains('\''), "{}", case.command);
        }
        // The run, and whoever reads its trace.
        assert_eq!(script.matches("timeout -s KILL").count(), 2 * all.len());
    }

    #[test]
    fn a_trace_that_was_not_explained_is_no_case_without_one() {
        let out = tempfile::tempdir().unwrap();
        let file = out.path().join(EXPLAINED);
        assert!(explained(&file).unwrap().is_none());
        std::fs::write(&file, "").unwrap();
        assert!(explained(&file).is_err());
    }

    #[test]
    fn a_run_that_left_nothing_is_a_row_with_its_last_words() {
        let out = tempfile::tempdir().unwrap();
        let folder = out.path().join(CASES[0].name);
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("stdout"), "").unwrap();
        std::fs::write(folder.join("stderr"), "note\nno such option").unwrap();
        let rows = CASES[0].rows(out.path());
        assert!(rows.len() == 1 && !rows[0].ok, "{rows:?}");
        assert!(rows[0].to_string().contains("no such option"), "{}", rows[0]);
    }
}
