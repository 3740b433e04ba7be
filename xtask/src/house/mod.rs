// SPDX-License-Identifier: Apache-2.0
//! `cargo xtask house`: how the source is built, in figures that can be asked again.
//!
//! Tests are counted apart, and but for unsafe blocks and closures not at all: folders `tests`, files
//! that only tests have, and what stands behind `#[cfg(test)]`.

mod circles;
mod functions;
mod source;

use std::fmt;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use self::functions::Functions;
use self::source::Source;
use testhost::project;

/// Functions longer than this are counted.
const LONG_LINES: usize = 60;
/// Functions with more parameters than this are counted: `self` is one, a tuple as many as it has.
const MAX_PARAMETERS: usize = 5;

/// The way from the program's first line to the first instruction of a guest.
///
/// A file is a step whose functions are on the stack at KVM_RUN, or in which a step has made what it
/// hands on as a whole: options, job, kernel, initrd, memory, machine, vCPU. The list is chosen by
/// that, not found: what one of these is composed of in turn has files that are left out
/// (docs/architecture.md names them).
const WAY: [Step; 10] = [
    step("schedvmm/src/main.rs", "fn main(", "fn main("),
    step("schedvmm/src/cli/mod.rs", "pub struct RunArgs", "Cli::try_parse("),
    step("schedvmm/src/verbs/measure/mod.rs", "pub fn run(", "verbs::measure::run("),
    step("schedvmm/src/verbs/measure/plan.rs", "pub fn make(", "Plan::make("),
    step("schedvmm/src/job.rs", "pub fn make(", "job::make("),
    step("schedvmm/src/kernel/mod.rs", "pub fn open(", "kernel::open("),
    step("schedvmm/src/machine.rs", "pub fn initrd(", "machine::initrd("),
    step("vmm/src/load.rs", "pub fn fill(", "load::fill("),
    step("vmm/src/vm.rs", "pub fn build(", "Vm::build("),
    step("vmm/src/vcpu/mod.rs", "vcpu.run()", "Vcpu::create("),
];

/// A file on the way.
struct Step {
    /// Below the project's root.
    file: &'static str,
    /// What takes the way through it.
    taken: &'static str,
    /// How an earlier step comes to it; so nothing lies between the two.
    call: &'static str,
}

const fn step(file: &'static str, taken: &'static str, call: &'static str) -> Step {
    Step { file, taken, call }
}

/// The counts.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// Files, without tests.
    pub files: usize,
    /// Lines of code in them: no comments, no empty lines.
    pub code_lines: usize,
    /// Modules that import each other, a group an entry; what a module takes from the one that it is
    /// in does not count.
    pub circles: Vec<Vec<String>>,
    /// Files that parse result.json.
    pub readers_of_result: Vec<String>,
    /// Files that parse gaps.csv.
    pub readers_of_gaps: Vec<String>,
    /// Files that read or write JSON by no type of ours, but for those in `results`, which lift older
    /// results to this version.
    pub untyped_json: Vec<String>,
    /// Files from `main` to `KVM_RUN`.
    pub way_files: usize,
    /// Their lines, comments too, without tests.
    pub way_lines: usize,
    /// Blocks of unsafe code.
    pub unsafe_blocks: usize,
    /// Those without a SAFETY argument.
    pub unargued: Vec<String>,
    /// Functions of more than 60 lines.
    pub long_functions: Vec<String>,
    /// Functions of more than five parameters, `self` and a tuple's members counted.
    pub wide_functions: Vec<String>,
    /// Functions with a tuple for a parameter.
    pub tuple_functions: Vec<String>,
    /// Closures with a name.
    pub named_closures: Vec<String>,
    /// Fields of the types in `protocol` and `results` that are text.
    pub text_fields: Vec<String>,
    /// Blocks of unsafe code in tests.
    pub unsafe_blocks_of_tests: usize,
    /// Closures with a name in tests.
    pub named_closures_of_tests: usize,
}

/// What a file that reads result.json has in it.
const RESULT_NAMES: [&str; 5] =
    ["RunResult::deserialize", "\"result.json\"", "folder::RESULT", "<RunResult", ": RunResult"];
const JSON_PARSERS: [&str; 4] = ["from_slice", "from_str", "from_reader", "deserialize("];
/// What one that reads gaps.csv has.
const GAPS_NAMES: [&str; 2] = ["gaps_csv::NAME", "\"gaps.csv\""];
const LINE_PARSERS: [&str; 2] = [".split(',')", ".lines()"];

/// Counts all of it in the project's sources.
///
/// # Errors
/// A file cannot be read, or is no Rust.
pub fn figures() -> Result<Figures> {
    let files = source::all(project::root())?;
    let (mut functions, mut tests) = (Functions::default(), Functions::default());
    for source in &files {
        functions.visit(source);
        tests.visit_tests(source);
    }
    let sources: Vec<_> = files.into_iter().filter(|source| !source.is_for_tests()).collect();
    let way_lines = way(&sources)?;
    Ok(Figures {
        files: sources.len(),
        code_lines: sources.iter().map(Source::code_lines).sum(),
        circles: circles::find(&sources),
        readers_of_result: readers(&sources, &RESULT_NAMES, &JSON_PARSERS),
        readers_of_gaps: readers(&sources, &GAPS_NAMES, &LINE_PARSERS),
        untyped_json: untyped_json(&sources),
        way_files: WAY.len(),
        way_lines,
        unsafe_blocks: functions.unsafe_blocks,
        unargued: functions.unargued,
        long_functions: functions.long,
        wide_functions: functions.wide,
        tuple_functions: functions.tuples,
        named_closures: functions.named_closures,
        text_fields: functions.text_fields,
        unsafe_blocks_of_tests: tests.unsafe_blocks,
        named_closures_of_tests: tests.named_closures.len(),
    })
}

/// Files that have one of these names, in full or by their imports, and parse something.
fn readers(sources: &[Source], names: &[&str], parsers: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources {
        let text = source.text_without_tests();
        let paths = circles::paths(source).join("\n");
        // This one names them only to count.
        if (contains_any(names, &text) || contains_any(names, &paths))
            && contains_any(parsers, &text)
            && !source.path.starts_with("xtask/src/house/")
        {
            found.push(source.path.clone());
        }
    }
    found
}

/// Files that read or write JSON by serde_json's `Value`, outside `results`.
fn untyped_json(sources: &[Source]) -> Vec<String> {
    const VALUES: [&str; 4] = ["serde_json::Value", "serde_json::{Value", ", Value};", "json!("];
    let others = sources.iter().filter(|source| {
        !source.path.starts_with("results/") && !source.path.starts_with("xtask/src/house/")
    });
    let found = others.filter(|source| contains_any(&VALUES, &source.text_without_tests()));
    found.map(|source| source.path.clone()).collect()
}

fn contains_any(words: &[&str], text: &str) -> bool {
    words.iter().any(|word| text.contains(word))
}

/// Lines from `main` to `KVM_RUN`.
fn way(sources: &[Source]) -> Result<usize> {
    let mut lines = 0;
    let mut before = String::new();
    for Step { file, taken, call } in WAY {
        let source = sources.iter().find(|source| source.path == file);
        let text = source
            .with_context(|| format!("there is no `{file}`, which is on the way to KVM_RUN"))?
            .text_without_tests();
        if !text.contains(taken) {
            bail!("`{file}` has no `{taken}`: the way to KVM_RUN leads elsewhere now");
        }
        lines += text.lines().count();
        if !before.is_empty() && !before.contains(call) {
            bail!("no file before `{file}` has `{call}`: the way to KVM_RUN has a step more now");
        }
        before.push_str(&text);
    }
    Ok(lines)
}

impl Figures {
    /// Closures with a name in a thousand lines of code.
    fn closures_per_kloc(&self) -> f64 {
        1000.0 * self.named_closures.len() as f64 / self.code_lines.max(1) as f64
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per_kloc = format!("{:.1}", self.closures_per_kloc());
        let pairs = [
            ("files", self.files.to_string()),
            ("lines of code", self.code_lines.to_string()),
            ("import circles", self.circles.len().to_string()),
            ("readers of result.json", self.readers_of_result.len().to_string()),
            ("readers of gaps.csv", self.readers_of_gaps.len().to_string()),
            ("files with JSON without types", self.untyped_json.len().to_string()),
            ("main to KVM_RUN, files", self.way_files.to_string()),
            ("main to KVM_RUN, lines", self.way_lines.to_string()),
            ("unsafe blocks", self.unsafe_blocks.to_string()),
            ("  without a SAFETY argument", self.unargued.len().to_string()),
            ("functions over 60 lines", self.long_functions.len().to_string()),
            ("functions over 5 parameters", self.wide_functions.len().to_string()),
            ("functions with a tuple to take", self.tuple_functions.len().to_string()),
            ("named closures per 1,000 lines", per_kloc),
            ("fields of text in files, frames", self.text_fields.len().to_string()),
            ("in tests: unsafe blocks", self.unsafe_blocks_of_tests.to_string()),
            ("in tests: named closures", self.named_closures_of_tests.to_string()),
        ];
        for (name, value) in pairs {
            writeln!(f, "{name:<32}{value:>8}")?;
        }
        let circles: Vec<_> = self.circles.iter().map(|circle| circle.join(" ↔ ")).collect();
        let lists = [
            ("circles", &circles),
            ("read result.json", &self.readers_of_result),
            ("read gaps.csv", &self.readers_of_gaps),
            ("JSON without types", &self.untyped_json),
            ("unargued", &self.unargued),
            ("over 60 lines", &self.long_functions),
            ("over 5 parameters", &self.wide_functions),
            ("with a tuple to take", &self.tuple_functions),
            ("named closures", &self.named_closures),
            ("fields of text", &self.text_fields),
        ];
        for (name, list) in lists.into_iter().filter(|(_, list)| !list.is_empty()) {
            write!(f, "\n{name}:")?;
            for entry in list {
                write!(f, "\n  {entry}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Each has a row in the table of docs/architecture.md.
    #[test]
    fn every_dependency_has_its_reason() {
        let root = project::root();
        let manifest = fs::read_to_string(root.join("Cargo.toml")).unwrap();
        let page = fs::read_to_string(root.join("docs/architecture.md")).unwrap();
        let (_, dependencies) = manifest.split_once("[workspace.dependencies]\n").unwrap();
        let dependencies = dependencies.split("\n[").next().unwrap();
        let names = dependencies
            .lines()
            .filter(|line| !line.starts_with('#') && !line.contains("path = "))
            .filter_map(|line| line.split_once(" = "))
            .map(|(name, _)| name);
        let without: Vec<_> = names.filter(|name| !page.contains(&format!("`{name}`"))).collect();
        assert!(without.is_empty(), "no reason in docs/architecture.md for {without:?}");
    }

    #[test]
    fn a_second_reader_is_found_by_any_of_its_words() {
        let (json, lines) = (&JSON_PARSERS[..], &LINE_PARSERS[..]);
        for (names, parsers, text) in [
            (&RESULT_NAMES[..], json, "fn f() { let it: RunResult = serde_json::from_str(text); }"),
            (&RESULT_NAMES, json, "fn f() { serde_json::from_slice::<RunResult>(bytes); }"),
            (&RESULT_NAMES, json, "fn f() -> Result<RunResult, E> { from_slice(bytes) }"),
            (&RESULT_NAMES, json, "fn f() { from_str(read(path.join(folder::RESULT))); }"),
            (&RESULT_NAMES, json, "use r::folder::{A, RESULT}; fn f() { from_str(read(RESULT)); }"),
            (&RESULT_NAMES, json, "fn f() { from_str(read(\"result.json\")); }"),
            (&GAPS_NAMES, lines, "fn f() { read(path.join(gaps_csv::NAME)).lines(); }"),
            (&GAPS_NAMES, lines, "fn f() { read(\"gaps.csv\").split(','); }"),
        ] {
            let source = Source::of_text(vec!["a".into()], text);
            assert_eq!(readers(&[source], names, parsers), ["a.rs"], "{text}");
        }
    }

    #[test]
    fn what_is_in_order_stays_so() {
        let figures = figures().unwrap();
        assert!(figures.circles.is_empty(), "{:?}", figures.circles);
        assert_eq!(figures.unargued, Vec::<String>::new());
        assert!(figures.wide_functions.is_empty(), "{:?}", figures.wide_functions);
        // Ranges, points, items of a list with their names: what is left is one thing.
        assert!(figures.tuple_functions.len() <= 33, "{:?}", figures.tuple_functions);
        assert_eq!(figures.readers_of_result, ["results/src/saved.rs"]);
        assert_eq!(figures.readers_of_gaps, ["results/src/gaps_csv.rs"]);
        assert_eq!(figures.untyped_json, Vec::<String>::new());
        assert!(figures.long_functions.len() <= 1, "{:?}", figures.long_functions);
        assert!(figures.closures_per_kloc() <= 1.0, "{:?}", figures.named_closures);
        assert!(figures.way_files <= 10 && figures.way_lines <= 3000, "{figures}");
        assert!(figures.unsafe_blocks <= 50, "{figures}");
    }
}
