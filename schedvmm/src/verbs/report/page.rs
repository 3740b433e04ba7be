// SPDX-License-Identifier: Apache-2.0
//! The document.

use gaps::evidence::Class;
use gaps::record::GapKind;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use results::model::{Answer, FigureSource, LocatedGap, RunResult, Target};

use crate::show::warmup_line;
use crate::units::{as_ns, show_ns};
use crate::verbs::report::why::Why;
use crate::verbs::report::{distribution, facts, timeline, vms};

const STYLE: &str = include_str!("style.css");
/// Nothing is loaded and no script runs, whatever stands in the page.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src data:";

/// A page with this title: all that is around its content.
pub fn document(title: &str, content: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                link rel="icon" href="data:,";
                title { "schedvmm: " (title) }
                style { (PreEscaped(STYLE)) }
            }
            body { (content) }
        }
    }
}

/// The whole page of a run.
pub fn render(result: &RunResult, why: &Result<Why, String>) -> Markup {
    let verdict = verdict(result);
    document(
        &format!("{}, {}", verdict.word, kernel(result)),
        &html! {
            (head(result, &verdict))
            main {
                (notes(&result.notes))
                (why_section(result, why))
                (vms::section(result))
                section aria-labelledby="h-gaps" {
                    h2 #h-gaps { "All gaps" }
                    @if let Some(warmup) = &result.warmup {
                        p { "Warm-up, " (warmup_line(warmup)) "." }
                    }
                    (gaps(result))
                    (facts::groups(result))
                    (facts::statistics(result))
                }
                section aria-labelledby="h-fairness" {
                    h2 #h-fairness { "Fairness" }
                    (facts::fairness(result))
                }
                (facts::cores(result))
                section aria-labelledby="h-environment" {
                    h2 #h-environment { "Environment" }
                    (facts::environment(result))
                }
            }
            footer { "schedvmm " (result.version) ", " (result.started_utc) }
        },
    )
}

/// A verdict in words.
struct Verdict {
    class: &'static str,
    word: String,
    text: String,
}

fn verdict(result: &RunResult) -> Verdict {
    let threshold = result.job.load.threshold.map(|threshold| show_ns(as_ns(threshold)));
    let without = if result.cosched.missing { ", without cookies" } else { "" };
    let interrupted = format!("INTERRUPTED{without}");
    let (class, word, text) = match (result.verdict, &threshold) {
        (Answer::Pass, Some(threshold)) => {
            // Nothing was tried of what the kernel is most often asked for.
            let class = if without.is_empty() { "good" } else { "neutral" };
            (class, format!("PASS{without}"), format!("No gap over {threshold}."))
        }
        (Answer::Pass, None) if !result.limits.is_empty() => {
            let class = if without.is_empty() { "good" } else { "neutral" };
            (class, format!("PASS{without}"), "No figure over its limit.".to_owned())
        }
        // Older versions called that a pass.
        (Answer::Measured | Answer::Pass, _) => {
            neutral(&format!("MEASURED{without}"), "No threshold was set.")
        }
        (Answer::OverThreshold, _) => {
            let over = threshold.as_deref().unwrap_or("the threshold");
            ("bad", format!("OVER THRESHOLD{without}"), format!("A gap over {over}."))
        }
        (Answer::OverLimit, _) => {
            ("bad", format!("OVER LIMIT{without}"), "A figure over its limit.".to_owned())
        }
        (Answer::Interrupted, _) => neutral(&interrupted, "The run was ended before its time."),
        (Answer::Untestable, _) => neutral("UNTESTABLE", "This kernel could not be tested."),
        (Answer::UsageError, _) => neutral("USAGE ERROR", "The request cannot be met."),
        (Answer::HostError, _) => neutral("HOST ERROR", "This host could not do it."),
        (Answer::InternalError, _) => neutral("INTERNAL ERROR", "This is a defect of schedvmm."),
    };
    Verdict { class, word, text }
}

fn neutral(word: &str, text: &str) -> (&'static str, String, String) {
    ("neutral", word.to_owned(), text.to_owned())
}

fn kernel(result: &RunResult) -> String {
    let kernel = &result.kernel;
    let release = kernel.hello.as_ref().map(|hello| hello.release.as_str());
    let words = [release, kernel.banner.as_deref(), Some(kernel.path.as_str())];
    let kernel = words.into_iter().flatten().find(|word| !word.is_empty());
    kernel.unwrap_or("a kernel unknown").to_owned()
}

fn head(result: &RunResult, verdict: &Verdict) -> Markup {
    let classes = &result.statistics.classes;
    let host = classes.iter().find(|class| class.class == Class::Host);
    // Of no gaps it is no part.
    let no_host = (!classes.is_empty()).then_some(0.0);
    let expected = &result.expected;
    html! {
        header {
            p.what { "schedvmm " @if result.target == Target::Host { "on the running kernel, " } (kernel(result)) }
            h1 class=(verdict.class) { (verdict.word) }
            p.lead { (verdict.text) @if !result.reason.is_empty() { " " (result.reason) } }
            dl.figures {
                (figure("longest gap", result.longest_gap.as_ref()
                    .map_or_else(|| none(result), |gap| show_ns(gap.length_ns)),
                    result.longest_gap.as_ref().map(|gap| place(result, gap)).unwrap_or_default()
                        + &after_hit(result)))
                // Of machines nothing is expected.
                @if result.target != Target::Nested { (figure("longest by design", expected.gap_ns.map_or_else(|| "–".into(), show_ns),
                    expected.inflation.map_or_else(|| expected.note.clone(), |by| format!("measured {by:.2} ×")))) }
                (figure("half of the time lost in gaps over", facts::length(result.statistics
                    .time_quantiles.and_then(|of| of.p50_ns)),
                    result.statistics.gaps_per_s.map(|rate| format!("{rate:.1} gaps a second wanted"))
                        .unwrap_or_default()))
                (figure("time in gaps", facts::percent(result.statistics.gap_share),
                    of_or_short("of the time wanted", result)))
                (figure("furthest behind", facts::length(result.service_lag.in_a_second().map(|lag| lag.max_ns)),
                    of_or_short("what a thread was due within a second", result)))
                (figure("host's part", facts::percent(host.map_or(no_host, |class| class.share)),
                    "of the time in gaps".into()))
            }
        }
    }
}

/// What a share is of, unless the run was too short for one.
fn of_or_short(of: &str, result: &RunResult) -> String {
    let short = result.too_short.as_ref().map(|_| "run too short");
    short.unwrap_or(of).to_owned()
}

fn figure(name: &str, value: String, note: String) -> Markup {
    html! { div.figure { dt { (name) } dd { strong { (value) } span { (note) } } } }
}

/// Text in place of a longest gap: only a load has none.
fn none(result: &RunResult) -> String {
    if result.setup.is_some() { "none" } else { "–" }.to_owned()
}

/// What ended after the gap over the threshold, and is in no figure.
fn after_hit(result: &RunResult) -> String {
    let Some(after) = &result.after_hit else { return String::new() };
    format!("; after the hit: {}, longest {}", after.gaps, show_ns(after.longest_ns))
}

/// Where a gap was.
fn place(result: &RunResult, gap: &LocatedGap) -> String {
    let tid = gap.tid.map(|tid| format!(" (tid {tid})")).unwrap_or_default();
    let cpu = if gap.cpu_begin == gap.cpu_end {
        format!("CPU {}", gap.cpu_begin)
    } else {
        format!("CPU {} to {}", gap.cpu_begin, gap.cpu_end)
    };
    format!(
        "{}{tid}, {cpu}, {} after the start, {}{}",
        gap.who.name(result.kind()),
        show_ns(gap.begin_ns),
        gap.class.name(),
        if gap.kind == GapKind::WakeUp { ", of a wake-up" } else { "" }
    )
}

/// What a reader must know.
pub fn notes(notes: &[String]) -> Markup {
    html! {
        @if !notes.is_empty() {
            section.notes aria-label="Notes" { ul { @for note in notes { li { (note) } } } }
        }
    }
}

/// The longest gap and why it was.
fn why_section(result: &RunResult, why: &Result<Why, String>) -> Markup {
    let title = if result.threshold_hit.is_some() {
        "The gap over the threshold"
    } else {
        "The longest gap"
    };
    html! {
        section aria-labelledby="h-why" {
            h2 #h-why { (title) }
            (explained(result, why, ""))
        }
    }
}

/// Why a gap was, by its trace; `mark` tells the picture's names from those of others on the page.
pub fn explained(result: &RunResult, why: &Result<Why, String>, mark: &str) -> Markup {
    html! {
        @match why {
            Ok(why) => {
                p.lead { (why.explained.paragraph) }
                @if let Some(torn) = &why.torn { p.small { "The trace is not all there: " (torn) "." } }
                @if let Some(remark) = &why.remark { p.small { (remark) } }
                @if why.explained.is_forced_idle() { (facts::no_measurement(result)) }
                (timeline::picture(why, mark))
                (facts::causes(why))
            }
            Err(reason) => p {
                @if let Some(gap) = result.gap() {
                    (show_ns(gap.length_ns)) ": " (place(result, gap)) ". "
                }
                "Not explained: " (reason) "."
            }
        }
    }
}

fn gaps(result: &RunResult) -> Markup {
    let source = match result.statistics.source {
        FigureSource::Histogram => {
            "Records overflowed: figures come from the histogram and are up to 1.6 % high."
        }
        FigureSource::Partial => "The run ended early: some gaps are missing.",
        FigureSource::Records => "",
    };
    html! {
        @match distribution::picture(result) {
            Some(picture) => (picture),
            None if result.setup.is_none() => p { "Nothing was measured." },
            None => p { "There was no gap of at least " (show_ns(as_ns(result.job.load.floor))) "." },
        }
        @if !source.is_empty() { p.small { (source) } }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use protocol::message::{CoschedInterface, Hello, Setup, TunableReport};
    use protocol::scheduler::SchedulerFacts;
    use protocol::vm::VmStatus;
    use results::model::{VmResult, Warmup};

    use super::*;
    use crate::testing;

    const HOSTILE: &str = "</style><script>alert('x')</script><img src=x onerror=\"y\">&";

    /// Words of the guest in every place that takes words.
    fn hostile() -> RunResult {
        let word = || HOSTILE.to_owned();
        let mut result = testing::result();
        result.version = word();
        result.reason = word();
        result.notes = vec![word()];
        result.command_line = vec![word()];
        result.started_utc = word();
        result.longest_gap = Some(LocatedGap { length_ns: 7, ..LocatedGap::default() });
        result.too_short = Some(word());
        result.expected.note = word();
        let status = VmStatus { fault: Some(word()), state: Some(word()), ..VmStatus::default() };
        result.vms = vec![VmResult { status, console_tail: Some(word()), ..VmResult::default() }];
        result.cosched.note = Some(word());
        let scheduler = SchedulerFacts { slice_note: Some(word()), ..SchedulerFacts::default() };
        let tunable =
            TunableReport { request: word(), note: Some(word()), ..TunableReport::default() };
        let tunables = vec![tunable];
        result.setup = Some(Setup { scheduler, tunables, ..Setup::default() });
        let (release, version) = (word(), word());
        let (cmdline, clocksource) = (word(), word());
        let hello = Hello { release, version, cmdline, clocksource, ..Hello::default() };
        result.kernel.hello = Some(hello);
        result.kernel.path = word();
        result.machine.summary = word();
        result.job.load.name = Some(word());
        result.core_figures.measured = false;
        result.core_figures.reason = Some(word());
        result.host.cpu = Some(word());
        result.host.mitigations = [(word(), word())].into();
        result
    }

    #[test]
    fn nothing_the_guest_says_becomes_markup() {
        let page = render(&hostile(), &Err(HOSTILE.to_owned())).into_string();
        assert!(!page.contains("<script") && !page.contains("<img"), "{page}");
        assert_eq!(page.matches("</style>").count(), 1);
        let found = page.matches("&lt;script&gt;").count();
        assert!(found >= 20, "{found}");
    }

    /// A run with this answer, and `--cosched auto`.
    fn answered(verdict: Answer, threshold: Option<u64>) -> RunResult {
        let mut result = testing::result();
        result.verdict = verdict;
        result.job.load.threshold = threshold.map(Duration::from_nanos);
        result
    }

    #[test]
    fn a_verdict_says_what_was_not_tried() {
        let word = |verdict, threshold, missing| {
            let mut result = answered(verdict, threshold);
            result.cosched.missing = missing;
            super::verdict(&result).word
        };
        assert_eq!(word(Answer::Pass, Some(1), false), "PASS");
        assert_eq!(word(Answer::Pass, Some(1), true), "PASS, without cookies");
        assert_eq!(word(Answer::OverThreshold, Some(1), true), "OVER THRESHOLD, without cookies");
        assert_eq!(word(Answer::Interrupted, Some(1), true), "INTERRUPTED, without cookies");
        assert_eq!(word(Answer::Measured, None, false), "MEASURED");
        // A result of an older version.
        assert_eq!(word(Answer::Pass, None, false), "MEASURED");
        for answer in
            [Answer::Untestable, Answer::UsageError, Answer::HostError, Answer::InternalError]
        {
            let expected = answer.name().replace('-', " ").to_uppercase();
            assert_eq!(word(answer, None, false), expected);
        }
    }

    #[test]
    fn cookies_that_no_group_wants_are_not_missing() {
        let mut result = answered(Answer::Pass, Some(1));
        result.cosched.mechanism = Some(CoschedInterface::None);
        assert_eq!(verdict(&result).word, "PASS");
        result.cosched.missing = true;
        assert_eq!(verdict(&result).word, "PASS, without cookies");
    }

    #[test]
    fn what_the_warm_up_leaves_out_is_told() {
        let mut result = testing::result();
        let page = |result: &RunResult| render(result, &Err("none".into())).into_string();
        assert!(!page(&result).contains("Warm-up"));
        let warmup = Warmup {
            time_ns: 1_000_000_000,
            gaps: 3,
            gap_ns: 9_000_000,
            longest_ns: 5_000_000,
            divided: 0,
        };
        result.warmup = Some(warmup);
        let told = "Warm-up, in no figure: 3 gaps that began in the first 1.00 s, longest 5.0 ms";
        assert!(page(&result).contains(told), "{}", page(&result));
    }

    #[test]
    fn what_never_began_has_not_had_no_gap() {
        let mut result = testing::result();
        let never = render(&result, &Err("nothing was measured".into())).into_string();
        assert!(never.contains("Nothing was measured.") && !never.contains("no gap"), "{never}");
        assert!(!never.contains("<strong>none<") && !never.contains("0.0 %"), "{never}");
        result.setup = Some(Setup::default());
        let none = render(&result, &Err("there was no gap".into())).into_string();
        assert!(none.contains("There was no gap of at least") && none.contains(">none<"), "{none}");
    }

    #[test]
    fn the_page_loads_nothing() {
        let page = render(&hostile(), &Err(String::new())).into_string();
        let own = page.replace("&lt;img src=x", "").replace("href=\"data:,\"", "");
        for word in ["src=", "href=", "@import", "http:", "https:"] {
            assert!(!own.contains(word), "{word}");
        }
        assert!(page.contains("default-src &#39;none&#39;") || page.contains("default-src 'none'"));
    }

    #[test]
    fn a_result_that_knows_nothing_gives_a_page() {
        let page = render(&testing::result(), &Err("there was no gap".into())).into_string();
        assert!(page.contains("INTERNAL ERROR") && page.contains("there was no gap"), "{page}");
        assert!(page.ends_with("</html>"));
    }
}
