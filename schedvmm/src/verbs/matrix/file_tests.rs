// SPDX-License-Identifier: Apache-2.0
//! Files that say what a matrix is, right and wrong.

use super::*;

const WHOLE: &str = r#"
trials = 10
seed = 7
metric = "longest"
min-effect = "20%"
options = "--duration 10s --load-cpus 2,3"
kernels = ["a/bzImage", "b/bzImage"]
tunings = ["", "slice=3ms  hrtick=off"]
loads = ["yield", "busy"]
cookies = ["prctl", "none"]
[base]
kernel = "b/bzImage"
tuning = ""
"#;

fn asked(text: &str) -> Result<Asked, Failure> {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("m.toml");
    std::fs::write(&path, text).expect("written");
    Written::read(&path)?.asked()
}

#[track_caller]
fn of(text: &str) -> Asked {
    asked(text).unwrap_or_else(|failure| panic!("{failure}"))
}

#[test]
fn a_file_says_all_there_is_to_say() {
    let Asked { question, seed, cells } = of(WHOLE);
    assert_eq!((seed, question.trials, question.metric), (Some(7), 10, Metric::Longest));
    assert_eq!((question.min_effect, cells.len()), (0.2, 16));
    assert_eq!(question.tunings, ["", "slice=3ms hrtick=off"]);
    let (place, run) = &cells[15];
    assert_eq!(*place, Place { kernel: 1, tuning: 1, load: 1, cookies: 1 });
    assert_eq!(run.kernel.as_deref(), Some(Path::new("b/bzImage")));
    assert_eq!((run.load.tune.len(), run.load.preset.as_deref()), (2, Some("busy")));
    assert_eq!((run.load.cosched, run.load.threshold.0), (Cosched::None, None));
    assert_eq!(run.load.duration.as_secs(), 10);
    // The base's kernel without tunables, under the same load.
    let base = place.base(&question);
    assert_eq!(base, Place { kernel: 1, tuning: 0, load: 1, cookies: 1 });
    assert_eq!(base.base(&question), base);
    assert_eq!(place.name(&question), "b/bzImage, slice=3ms hrtick=off, busy, cookies none");
}

#[test]
fn what_is_left_out_is_as_options_say() {
    let Asked { question, seed, cells } =
        of("trials = 3\nkernels = [\"a\", \"b\"]\noptions = \"--preset busy --cosched none\"");
    assert_eq!((seed, question.metric, question.min_effect), (None, Metric::WaitP99, 0.1));
    assert_eq!(cells[1].1.load.preset.as_deref(), Some("busy"));
    assert_eq!((cells.len(), cells[1].1.load.cosched), (2, Cosched::None));
    assert_eq!(question.base.kernel.as_deref(), Some("a"));
    assert_eq!(cells[1].0.name(&question), "b");
    let question = of("trials = 3\nkernels = [\"a\"]\nloads = [\"busy\", \"yield\"]").question;
    assert_eq!(question.base.load.as_deref(), Some("busy"));
}

#[test]
fn what_is_wrong_is_named_with_its_place() {
    // A line that takes the place of another one, or is added; line and column; words.
    for (from, to, place, words) in [
        ("trials = 10", "trials = 10\ntrial = 3", "line 3, column 1", "unknown field `trial`"),
        ("trials = 10", "", "line 1, column 1", "missing field `trials`"),
        ("trials = 10", "trials = 0", "line 2, column 10", "trials = 0: give 1 to 10000"),
        ("trials = 10", "trials = \"x\"", "line 2, column 10", "expected i64"),
        ("seed = 7", "seed = -7", "line 3, column 8", "seed is below 0"),
        ("\"longest\"", "\"p99\"", "line 4, column 10", "`p99` is no figure; there are wait-p99"),
        ("\"20%\"", "\"20ms\"", "line 5, column 14", "min-effect = \"20ms\": "),
        ("\"20%\"", "\"0\"", "line 5, column 14", "is no change"),
        ("10s", "10", "line 6, column 11", "it needs a number and a unit"),
        ("--load-cpus 2,3", "--load-cpus 9", "line 6, column 11", "--load-cpus names CPU 9"),
        (
            "--load-cpus 2,3",
            "--threshold 1s",
            "line 6, column 11",
            "--threshold <TIME>' cannot be used multiple times",
        ),
        ("--load-cpus 2,3", "--seed=1", "line 6, column 11", "--seed is of one run"),
        ("--load-cpus 2,3", "-n 3", "line 6, column 11", "--runs is of one run"),
        ("--load-cpus 2,3", "-o r", "line 6, column 11", "--output is of one run"),
        ("--load-cpus 2,3", "--tune slice=1ms", "line 6, column 11", "--tune is what `tunings`"),
        ("--load-cpus 2,3", "--groups 2", "line 9, column 10", "cannot be used with"),
        ("--load-cpus 2,3", "--cosched tag", "line 10, column 12", "cannot be used multiple times"),
        ("--load-cpus 2,3", "'", "line 6, column 11", "a quotation mark without its other one"),
        ("\"a/bzImage\", ", "\"b/bzImage\", ", "line 7, column 25", "in `kernels` twice"),
        ("\"a/bzImage\"", "\"\"", "line 7, column 12", "`` is no kernel"),
        ("hrtick=off", "slice=1ms", "line 8, column 16", "the tunable is there already"),
        ("hrtick=off", "hrtik=off", "line 8, column 16", "there is no tunable `hrtik`"),
        ("slice=3ms", "slice=3", "line 8, column 16", "slice"),
        (
            "\"yield\"",
            "\"no-such-load\"",
            "line 9, column 10",
            "`no-such-load` is no file and no preset; there are",
        ),
        ("\"none\"]", "\"off\"]", "line 10, column 21", "`off` is no source of cookies; there are"),
        ("kernel = \"b/bzImage\"", "kernel = \"c\"", "line 12, column 10", "`c` is in no cell"),
        ("kernel = \"b/bzImage\"", "kern = \"c\"", "line 12, column 1", "unknown field `kern`"),
        ("[base]", "[base", "line 11, column ", ""),
    ] {
        let text = WHOLE.replacen(from, to, 1);
        assert_ne!(text, WHOLE, "{from}");
        let Err(failure) = asked(&text) else { panic!("{to} accepted") };
        assert_eq!(failure.status(), ExitStatus::Usage, "{to}: {failure}");
        let told = failure.to_string();
        assert!(told.contains(&format!("m.toml, {place}")), "{to}: {told}");
        assert!(told.contains(words), "{to}: {told}");
    }
}

#[test]
fn a_matrix_has_cells_to_compare() {
    let refused = |text: &str| asked(text).err().map(|failure| failure.to_string());
    let one = refused("trials = 3\nkernels = [\"a\"]").expect("one cell");
    assert!(one.contains("it has 1 cells; give 2 to 1000"), "{one}");
    let none = refused("trials = 3\nkernels = []").expect("no kernel");
    assert!(none.contains("it has 0 cells"), "{none}");
    let itself = "trials = 3\nkernels = [\"a\", \"b\"]\nloads = [\"busy\"]\nbase.load = \"busy\"";
    let told = refused(itself).expect("every cell is its base");
    assert!(told.contains("line 4, column 13: every cell would be compared with itself"), "{told}");
    let gone = Written::read(Path::new("/no/such/file")).err().map(|it| it.to_string());
    assert!(gone.is_some_and(|told| told.contains("cannot read /no/such/file")));
}

#[test]
fn a_load_of_ones_own_is_a_file() {
    let dir = tempfile::tempdir().expect("tempdir");
    let path = dir.path().join("own.toml");
    std::fs::write(&path, "[[group]]\nthreads = 2\nnice = 99\n").expect("written");
    let text = format!("trials = 3\nkernels = [\"a\"]\nloads = [\"busy\", \"{}\"]", path.display());
    let told = asked(&text).err().expect("a bad load").to_string();
    assert!(told.contains("line 3, column 18: --load ") && told.contains("nice 99"), "{told}");
    std::fs::write(&path, "[[group]]\nthreads = 2\n").expect("written");
    assert_eq!(of(&text).cells[1].1.load.load.as_deref(), Some(path.as_path()));
}
