// SPDX-License-Identifier: Apache-2.0
//! The document.

use gaps::evidence::Class;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::saved::{Gap, Saved};
use super::why::Why;
use super::{distribution, facts, machines, timeline};
use crate::summary::Source;
use crate::units::show_ns;

const STYLE: &str = include_str!("style.css");
/// Nothing is loaded and no script runs, whatever stands in the page.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src data:";

/// The whole page.
pub fn render(saved: &Saved, why: &Result<Why, String>) -> Markup {
    let verdict = verdict(saved);
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                link rel="icon" href="data:,";
                title { "schedvmm: " (verdict.word) ", " (kernel(saved)) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                (head(saved, &verdict))
                main {
                    (notes(saved))
                    (why_section(saved, why))
                    (machines::section(saved))
                    section aria-labelledby="h-gaps" {
                        h2 #h-gaps { "All gaps" }
                        (gaps(saved))
                        (facts::groups(saved))
                        (facts::statistics(saved))
                    }
                    section aria-labelledby="h-fairness" {
                        h2 #h-fairness { "Fairness" }
                        (facts::fairness(saved))
                    }
                    (facts::cores(saved))
                    section aria-labelledby="h-environment" {
                        h2 #h-environment { "Environment" }
                        (facts::environment(saved))
                    }
                }
                footer { "schedvmm " (saved.version) ", " (saved.started_utc) }
            }
        }
    }
}

/// A verdict in words.
struct Verdict {
    class: &'static str,
    word: String,
    text: String,
}

fn verdict(saved: &Saved) -> Verdict {
    let threshold = saved.job.load.threshold_ns.map(show_ns);
    let without = if saved.cosched.is_missing() { ", without cookies" } else { "" };
    let interrupted = format!("INTERRUPTED{without}");
    let neutral = |word: &str, text: &str| ("neutral", word.to_owned(), text.to_owned());
    let (class, word, text) = match (saved.verdict.as_str(), &threshold) {
        ("pass", Some(threshold)) => {
            // Nothing was tried of what the kernel is most often asked for.
            let class = if without.is_empty() { "good" } else { "neutral" };
            (class, format!("PASS{without}"), format!("No gap over {threshold}."))
        }
        // Older versions called that a pass.
        ("measured" | "pass", _) => neutral(&format!("MEASURED{without}"), "No threshold was set."),
        ("over-threshold", _) => {
            let over = threshold.as_deref().unwrap_or("the threshold");
            ("bad", format!("OVER THRESHOLD{without}"), format!("A gap over {over}."))
        }
        ("interrupted", _) => neutral(&interrupted, "The run was ended before its time."),
        ("untestable", _) => neutral("UNTESTABLE", "This kernel could not be tested."),
        ("usage-error", _) => neutral("USAGE ERROR", "The request cannot be met."),
        ("host-error", _) => neutral("HOST ERROR", "This host could not do it."),
        ("internal-error", _) => neutral("INTERNAL ERROR", "This is a defect of schedvmm."),
        _ => neutral("UNKNOWN", "The result has no verdict that this program knows."),
    };
    Verdict { class, word, text }
}

fn kernel(saved: &Saved) -> String {
    let words = ["release", "banner", "path"].map(|key| saved.kernel[key].as_str());
    let kernel = words.into_iter().flatten().find(|word| !word.is_empty());
    kernel.unwrap_or("a kernel unknown").to_owned()
}

fn head(saved: &Saved, verdict: &Verdict) -> Markup {
    let classes = &saved.statistics.classes;
    let host = classes.iter().find(|class| class.class == Class::Host);
    // Of no gaps it is no part.
    let no_host = (!classes.is_empty()).then_some(0.0);
    let jain = |name: &str| saved.fairness.get(name).and_then(|of| of.jain);
    let figure = |name: &str, value: String, note: String| {
        html! { div.figure { dt { (name) } dd { strong { (value) } span { (note) } } } }
    };
    let expected = &saved.expected;
    let short = |of: &str| {
        let short = saved.too_short.as_ref().map(|_| "run too short");
        short.unwrap_or(of).to_owned()
    };
    html! {
        header {
            p.what { "schedvmm " @if saved.target == "host" { "on the running kernel, " } (kernel(saved)) }
            h1 class=(verdict.class) { (verdict.word) }
            p.lead { (verdict.text) @if !saved.reason.is_empty() { " " (saved.reason) } }
            dl.figures {
                (figure("longest gap", saved.longest_gap.as_ref()
                    .map_or_else(|| none(saved), |gap| show_ns(gap.length_ns)),
                    saved.longest_gap.as_ref().map(|gap| place(saved, gap)).unwrap_or_default()
                        + &after_hit(saved)))
                // Of machines nothing is expected.
                @if !saved.is_nested() { (figure("longest by design", expected.gap_ns.map_or_else(|| "–".into(), show_ns),
                    expected.inflation.map_or_else(|| expected.note.clone(), |by| format!("measured {by:.2} ×")))) }
                (figure("p99 of gaps", saved.statistics.quantiles
                    .map_or_else(|| "–".into(), |of| show_ns(of.p99_ns)),
                    saved.statistics.gaps_per_s.map(|rate| format!("{rate:.1} gaps a second wanted"))
                        .unwrap_or_default()))
                (figure("time in gaps", facts::percent(saved.statistics.gap_share),
                    short("of the time wanted")))
                (figure("fairness", jain("groups").map_or_else(|| "–".into(), |jain| format!("{jain:.3}")),
                    short("Jain's index of groups")))
                (figure("host's part", facts::percent(host.map_or(no_host, |class| class.share)),
                    "of the time in gaps".into()))
            }
        }
    }
}

/// What there is in place of a longest gap: only a load has none.
fn none(saved: &Saved) -> String {
    if saved.setup.is_some() { "none" } else { "–" }.to_owned()
}

/// What ended after the gap over the threshold, and is in no figure.
fn after_hit(saved: &Saved) -> String {
    let Some(after) = &saved.after_hit else { return String::new() };
    format!("; after the hit: {}, longest {}", after.gaps, show_ns(after.longest_ns))
}

/// Where a gap was.
fn place(saved: &Saved, gap: &Gap) -> String {
    let tid = gap.tid.map(|tid| format!(" (tid {tid})")).unwrap_or_default();
    let cpu = if gap.cpu_begin == gap.cpu_end {
        format!("CPU {}", gap.cpu_begin)
    } else {
        format!("CPU {} to {}", gap.cpu_begin, gap.cpu_end)
    };
    format!(
        "{}{tid}, {cpu}, {} after the start, {}",
        gap.who.name(saved.kind()),
        show_ns(gap.begin_ns),
        gap.class
    )
}

fn notes(saved: &Saved) -> Markup {
    html! {
        @if !saved.notes.is_empty() {
            section.notes aria-label="Notes" { ul { @for note in &saved.notes { li { (note) } } } }
        }
    }
}

/// The longest gap and why it was.
fn why_section(saved: &Saved, why: &Result<Why, String>) -> Markup {
    let title = if saved.threshold_hit.is_some() {
        "The gap over the threshold"
    } else {
        "The longest gap"
    };
    html! {
        section aria-labelledby="h-why" {
            h2 #h-why { (title) }
            @match why {
                Ok(why) => {
                    p.lead { (why.explained.paragraph) }
                    @if let Some(torn) = &why.torn { p.small { "The trace is not all there: " (torn) "." } }
                    @if let Some(remark) = &why.remark { p.small { (remark) } }
                    @if why.explained.is_forced_idle() { (facts::no_measurement(saved)) }
                    (timeline::picture(why))
                    (facts::causes(why))
                }
                Err(reason) => p {
                    @if let Some(gap) = saved.gap() {
                        (show_ns(gap.length_ns)) ": " (place(saved, gap)) ". "
                    }
                    "Not explained: " (reason) "."
                }
            }
        }
    }
}

fn gaps(saved: &Saved) -> Markup {
    let source = match saved.statistics.source {
        Source::Histogram => {
            "Records overflowed: figures come from the histogram and are up to 1.6 % high."
        }
        Source::Partial => "The run ended early: some gaps are missing.",
        Source::Records => "",
    };
    html! {
        @match distribution::picture(saved) {
            Some(picture) => (picture),
            None if saved.setup.is_none() => p { "Nothing was measured." },
            None => p { "There was no gap of at least " (show_ns(saved.job.load.floor_ns)) "." },
        }
        @if !source.is_empty() { p.small { (source) } }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::saved::{Cosched, Meter, Setup, Vm};
    use super::*;

    const HOSTILE: &str = "</style><script>alert('x')</script><img src=x onerror=\"y\">&";

    /// Words of the guest in every place that takes words.
    fn hostile() -> Saved {
        let word = || HOSTILE.to_owned();
        let gap = Gap { class: word(), length_ns: 7, ..Gap::default() };
        Saved {
            version: word(),
            verdict: word(),
            reason: word(),
            notes: vec![word()],
            command_line: vec![word()],
            longest_gap: Some(gap),
            vms: vec![Vm {
                phase: word(),
                fault: Some(word()),
                console_tail: Some(word()),
                meter: Some(Meter { kind: word() }),
                ..Vm::default()
            }],
            cosched: Cosched {
                requested: word(),
                mechanism: Some(word()),
                note: Some(word()),
                missing: None,
                cookies: vec![],
            },
            setup: Some(Setup { scheduler: json!({ HOSTILE: HOSTILE }), ..Setup::default() }),
            kernel: json!({ "release": HOSTILE, "version": HOSTILE, "cmdline": HOSTILE }),
            machine: json!({ "summary": HOSTILE }),
            host: json!({ HOSTILE: [HOSTILE] }),
            phases_ms: [(word(), 1)].into(),
            fairness: [(word(), crate::summary::Fairness::default())].into(),
            ..Saved::default()
        }
    }

    #[test]
    fn nothing_the_guest_says_becomes_markup() {
        let page = render(&hostile(), &Err(HOSTILE.to_owned())).into_string();
        assert!(!page.contains("<script") && !page.contains("<img"), "{page}");
        assert_eq!(page.matches("</style>").count(), 1);
        assert!(page.matches("&lt;script&gt;").count() >= 12);
    }

    #[test]
    fn a_verdict_says_what_was_not_tried() {
        let word = |verdict: &str, threshold_ns, mechanism: &str| {
            let mut saved = Saved { verdict: verdict.into(), ..Saved::default() };
            saved.job.load.threshold_ns = threshold_ns;
            saved.cosched.requested = "auto".into();
            saved.cosched.mechanism = Some(mechanism.into());
            super::verdict(&saved).word
        };
        assert_eq!(word("pass", Some(1), "prctl"), "PASS");
        assert_eq!(word("pass", Some(1), "none"), "PASS, without cookies");
        assert_eq!(word("over-threshold", Some(1), "none"), "OVER THRESHOLD, without cookies");
        assert_eq!(word("interrupted", Some(1), "none"), "INTERRUPTED, without cookies");
        assert_eq!(word("measured", None, "prctl"), "MEASURED");
        // A result of an older version.
        assert_eq!(word("pass", None, "prctl"), "MEASURED");
        for answer in ["untestable", "usage-error", "host-error", "internal-error"] {
            assert_eq!(word(answer, None, "prctl"), answer.replace('-', " ").to_uppercase());
        }
    }

    #[test]
    fn cookies_that_no_group_wants_are_not_missing() {
        let mut saved = Saved { verdict: "pass".into(), ..Saved::default() };
        saved.job.load.threshold_ns = Some(1);
        (saved.cosched.requested, saved.cosched.mechanism) = ("auto".into(), Some("none".into()));
        saved.cosched.missing = Some(false);
        assert_eq!(verdict(&saved).word, "PASS");
        saved.cosched.missing = Some(true);
        assert_eq!(verdict(&saved).word, "PASS, without cookies");
    }

    #[test]
    fn what_never_began_has_not_had_no_gap() {
        let never = render(&Saved::default(), &Err("nothing was measured".into())).into_string();
        assert!(never.contains("Nothing was measured.") && !never.contains("no gap"), "{never}");
        assert!(!never.contains("<strong>none<") && !never.contains("0.0 %"), "{never}");
        let saved = Saved { setup: Some(Setup::default()), ..Saved::default() };
        let none = render(&saved, &Err("there was no gap".into())).into_string();
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
        let page = render(&Saved::default(), &Err("there was no gap".into())).into_string();
        assert!(page.contains("UNKNOWN") && page.contains("there was no gap"), "{page}");
        assert!(page.ends_with("</html>"));
    }
}
