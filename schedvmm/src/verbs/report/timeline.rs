// SPDX-License-Identifier: Apache-2.0
//! The core around the worst gap: a lane for the thread that had it, for each CPU, and for
//! each group.

use std::collections::BTreeMap;

use ftrace::Lane;
use ftrace::attribution::{Cause, Explanation};
use maud::{Markup, html};

use crate::units::show_ns;
use crate::verbs::report::svg::{Axis, px, real};
use crate::verbs::report::why::Why;

const WIDTH: f64 = 1000.0;
const LEFT: f64 = 120.0;
const RIGHT: f64 = 990.0;
const TOP: f64 = 40.0;
/// Height of a lane, and of the row of one thread in a group's lane.
const LANE: f64 = 26.0;
const ROW: f64 = 11.0;
const LANE_GAP: f64 = 6.0;
/// Rows of a group, at most: further threads share them.
const MAX_ROWS: usize = 4;
/// Groups in the picture, at most; the one with the gap is always there.
const MAX_GROUPS: usize = 24;
/// Narrower pieces are drawn together.
const NARROW: f64 = 0.7;
/// Width of a letter in a piece, at most, and of what stays free beside them.
const LETTER: f64 = 7.5;
const FREE: f64 = 7.0;

/// A piece of a lane.
struct Piece {
    begin: u64,
    end: u64,
    class: String,
    /// A few letters, or none.
    label: String,
    title: String,
}

/// A lane with its place.
struct Row {
    y: f64,
    height: f64,
    pieces: Vec<Piece>,
}

/// Words beside lanes.
struct Label {
    y: f64,
    text: String,
    class: &'static str,
}

/// The class of the colour of the group with this number.
pub fn colour(group: u32) -> String {
    format!("g{}", group.wrapping_sub(1) % 10)
}

/// The picture with its legend; `mark` tells its names from those of others on the page.
pub fn picture(why: &Why, mark: &str) -> Markup {
    let (rows, labels, bottom, left_out) = lay_out(why);
    // Before the gap the time is negative.
    let from = -why.units.ms(why.gap.gap.begin - why.window.start);
    let to = why.units.ms(why.window.end.saturating_sub(why.gap.gap.begin));
    let x = Axis::linear((from, to), (LEFT, RIGHT));
    let (begin, end) = (place(why.gap.gap.begin, why), place(why.gap.gap.end, why));
    let height = bottom + 44.0;
    let length = show_ns(why.units.ns(why.gap.gap.end - why.gap.gap.begin));
    let middle = f64::midpoint(begin, end).clamp(LEFT + 60.0, RIGHT - 60.0);
    html! {
        div.scroll { svg.wide viewBox={ "0 0 " (WIDTH) " " (px(height)) } role="img"
            aria-labelledby={ "timeline-title" (mark) " timeline-text" (mark) } {
            title id={ "timeline-title" (mark) } { "The core around the longest gap" }
            desc id={ "timeline-text" (mark) } {
                "What ran on each CPU and in each group, from " (px(from)) " ms before the gap to "
                (px(to)) " ms after its beginning. The table of causes says the same in words."
            }
            defs {
                (hatch("hatch", "hatching"))
            }
            rect.gap x=(px(begin)) y=(TOP - 4.0) width=(px(end - begin)) height=(px(bottom - TOP + 4.0)) {}
            @for value in x.round_values(8) {
                path.grid d={ "M" (px(x.at(value))) " " (TOP) "V" (px(bottom)) } {}
                text.tick x=(px(x.at(value))) y=(px(bottom + 16.0)) text-anchor="middle" { (tidy(value)) }
            }
            text.axis x=(f64::midpoint(LEFT, RIGHT)) y=(px(bottom + 36.0)) text-anchor="middle" {
                "ms from the beginning of the gap"
            }
            @for label in &labels {
                text class=(label.class) x=(LEFT - 8.0) y=(px(label.y)) text-anchor="end" { (label.text) }
            }
            @for row in &rows { (draw(row, why)) }
            path.gap-edge d={ "M" (px(begin)) " " (TOP - 10.0) "V" (px(bottom)) "M" (px(end)) " "
                (TOP - 10.0) "V" (px(bottom)) } {}
            text.gap-text x=(px(middle)) y=(TOP - 16.0) text-anchor="middle" { "gap of " (length) }
        } }
        (legend())
        @if left_out > 0 { p.small { (left_out) " more groups are not drawn." } }
    }
}

/// A number without needless digits.
fn tidy(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').replace("-0", "0").to_owned()
}

/// Diagonal lines.
fn hatch(id: &str, class: &str) -> Markup {
    html! {
        pattern id=(id) width="7" height="7" patternUnits="userSpaceOnUse"
            patternTransform="rotate(45)" {
            rect class={ (class) "-ground" } width="7" height="7" {}
            path class=(class) d="M1.5 0V7" {}
        }
    }
}

/// All lanes from top to bottom, the words beside them, where they end, and how many groups
/// found no room.
fn lay_out(why: &Why) -> (Vec<Row>, Vec<Label>, f64, usize) {
    let (mut rows, mut labels) = (Vec::new(), Vec::new());
    let mut y = TOP;
    labels.push(Label { y: y + 17.0, text: victim(why), class: "lane strong" });
    rows.push(Row { y, height: LANE, pieces: causes(why, &why.gap) });
    y += LANE + 2.0 * LANE_GAP;
    for (&cpu, lane) in &why.lanes.cpus {
        labels.push(Label { y: y + 17.0, text: format!("CPU {cpu}"), class: "lane" });
        rows.push(Row { y, height: LANE, pieces: on_cpu(why, cpu, lane) });
        y += LANE + LANE_GAP;
    }
    y += LANE_GAP;
    let mut groups: BTreeMap<u32, Vec<&Explanation>> = BTreeMap::new();
    for thread in &why.threads {
        groups.entry(thread.group.unwrap_or_default()).or_default().push(thread);
    }
    let all = groups.len();
    let mut drawn = 0;
    for (group, threads) in groups {
        let own = why.gap.group == Some(group);
        // A place is kept for the group with the gap.
        if !own && drawn + 1 >= MAX_GROUPS {
            continue;
        }
        drawn += 1;
        let count = threads.len().clamp(1, MAX_ROWS);
        #[allow(clippy::cast_precision_loss, reason = "at most MAX_ROWS")]
        let (height, middle) = (ROW * count as f64, ROW * count as f64 / 2.0);
        let class = if own { "lane strong" } else { "lane" };
        let text = why.context.group_name(group);
        labels.push(Label { y: y + middle + 4.0, text, class });
        for (index, thread) in threads.iter().enumerate() {
            #[allow(clippy::cast_precision_loss, reason = "below MAX_ROWS")]
            let offset = ROW * (index % count) as f64;
            rows.push(Row { y: y + offset, height: ROW - 2.0, pieces: of_thread(why, thread) });
        }
        y += height + LANE_GAP;
    }
    (rows, labels, y, all - drawn)
}

/// Who had the gap, in few letters.
fn victim(why: &Why) -> String {
    let name: String = why.gap.name.chars().take(16).collect();
    format!("{name}: why")
}

/// The pieces of a gap, by cause.
fn causes(why: &Why, gap: &Explanation) -> Vec<Piece> {
    segments(gap)
        .map(|(begin, end, cause)| Piece {
            begin,
            end,
            class: cause_class(cause).into(),
            label: String::new(),
            title: title(why, &cause.describe(&why.context), begin, end),
        })
        .collect()
}

fn segments(gap: &Explanation) -> impl Iterator<Item = (u64, u64, &Cause)> {
    gap.segments.iter().filter_map(|segment| {
        Some((segment.begin, segment.end, &gap.parts.get(segment.part)?.cause))
    })
}

/// The class of a cause, which has its colour and pattern.
pub fn cause_class(cause: &Cause) -> &'static str {
    match cause {
        Cause::Queued { .. } => "queued",
        Cause::ForcedIdle { .. } => "forced",
        Cause::Throttled { .. } => "throttled",
        Cause::Idle { .. } => "idle",
        Cause::Waking { .. } | Cause::Migrating { .. } => "moving",
        Cause::Irq { .. } | Cause::Softirq { .. } => "irq",
        Cause::Running { .. } => "host",
        Cause::Sleeping { .. } => "sleeping",
        _ => "unknown",
    }
}

/// What ran on a CPU, and when it was forced idle: while a thread that we know waited there.
fn on_cpu(why: &Why, cpu: u32, lane: &Lane) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for slice in lane.slices.iter().filter(|slice| slice.tid != 0) {
        let group = why.context.groups.get(&slice.tid).copied();
        let known = why.context.thread_names.get(&slice.tid);
        let name = known.or_else(|| why.lanes.names.get(&slice.tid)).cloned().unwrap_or_default();
        let who = match group {
            Some(group) => format!("{}, {name} (tid {})", why.context.group_name(group), slice.tid),
            None => format!("{name} (tid {})", slice.tid),
        };
        pieces.push(Piece {
            begin: slice.begin,
            end: slice.end,
            class: group.map_or_else(|| "other".into(), colour),
            label: group.map_or_else(|| name.clone(), |group| group.to_string()),
            title: title(why, &who, slice.begin, slice.end),
        });
    }
    let idle = why.threads.iter().flat_map(segments).filter(
        |(_, _, cause)| matches!(cause, Cause::ForcedIdle { cpu: where_, .. } if *where_ == cpu),
    );
    let mut forced: Vec<_> = idle.collect();
    forced.sort_by_key(|(begin, ..)| *begin);
    let mut covered = 0;
    for (begin, end, cause) in forced {
        // Several threads may wait for one CPU at a time.
        let begin = begin.max(covered);
        if begin < end {
            covered = end;
            let title = title(why, &cause.describe(&why.context), begin, end);
            pieces.push(Piece { begin, end, class: "forced".into(), label: String::new(), title });
        }
    }
    pieces.sort_by_key(|piece| piece.begin);
    pieces
}

/// When a thread ran, and when it waited to.
fn of_thread(why: &Why, thread: &Explanation) -> Vec<Piece> {
    let colour = thread.group.map_or_else(|| "other".into(), colour);
    segments(thread)
        .filter_map(|(begin, end, cause)| {
            let (class, what) = match cause {
                Cause::Running { cpu } => (colour.clone(), format!("ran on CPU {cpu}")),
                Cause::Irq { .. } | Cause::Softirq { .. } => {
                    (colour.clone(), cause.describe(&why.context))
                }
                Cause::Sleeping { .. } | Cause::Unknown { .. } => return None,
                Cause::ForcedIdle { .. } => ("forced".into(), cause.describe(&why.context)),
                _ => (format!("waits {colour}"), cause.describe(&why.context)),
            };
            let title = title(why, &format!("{} {what}", thread.name), begin, end);
            Some(Piece { begin, end, class, label: String::new(), title })
        })
        .collect()
}

/// What is shown of a piece when it is pointed at.
fn title(why: &Why, what: &str, begin: u64, end: u64) -> String {
    let gap = why.gap.gap.begin;
    let from = why.units.ms(begin.abs_diff(gap)) * if begin < gap { -1.0 } else { 1.0 };
    let length = show_ns(why.units.ns(end - begin));
    format!("{what}: {length}, from {} ms", tidy(from))
}

/// The horizontal place of a time in the picture.
fn place(ticks: u64, why: &Why) -> f64 {
    let part = real(ticks.saturating_sub(why.window.start));
    LEFT + part / real(why.window.end - why.window.start) * (RIGHT - LEFT)
}

/// A lane. Pieces too narrow to be seen are drawn together as one, so a lane has no more
/// elements than pixels.
fn draw(row: &Row, why: &Why) -> Markup {
    let mut drawn = Vec::new();
    let mut narrow: Option<(f64, f64, u64)> = None;
    for piece in &row.pieces {
        let (from, to) = (place(piece.begin, why), place(piece.end, why));
        if to - from < NARROW {
            match &mut narrow {
                Some((first, last, count)) if from - *last < NARROW && to - *first < 4.0 => {
                    (*last, *count) = (to, *count + 1);
                }
                _ => {
                    flush(&mut drawn, &mut narrow, row);
                    narrow = Some((from, to, 1));
                }
            }
            continue;
        }
        flush(&mut drawn, &mut narrow, row);
        drawn.push(rect(&piece.class, (from, to - from), row, &piece.title));
        #[allow(clippy::cast_precision_loss, reason = "a name has some letters")]
        let room = FREE + LETTER * piece.label.chars().count() as f64;
        if !piece.label.is_empty() && to - from >= room {
            drawn.push(html! {
                text.inside x=(px(f64::midpoint(from, to))) y=(px(row.y + row.height / 2.0 + 4.0))
                    text-anchor="middle" { (piece.label) }
            });
        }
    }
    flush(&mut drawn, &mut narrow, row);
    html! { @for element in &drawn { (element) } }
}

fn flush(drawn: &mut Vec<Markup>, narrow: &mut Option<(f64, f64, u64)>, row: &Row) {
    if let Some((from, to, count)) = narrow.take() {
        let width = (to - from).max(NARROW);
        drawn.push(rect("mixed", (from, width), row, &format!("{count} short pieces")));
    }
}

fn rect(class: &str, (x, width): (f64, f64), row: &Row, title: &str) -> Markup {
    let waits = class.starts_with("waits");
    // One that waits is a thin line in the middle of its row.
    let (y, height) =
        if waits { (row.y + row.height / 2.0 - 1.0, 2.0) } else { (row.y, row.height) };
    html! {
        rect class={ "p " (class) } x=(px(x)) y=(px(y)) width=(format!("{width:.2}")) height=(px(height)) {
            title { (title) }
        }
    }
}

fn legend() -> Markup {
    const CLASSES: [(&str, &str); 9] = [
        ("queued", "queued behind another thread"),
        ("forced", "CPU forced idle for another group on its core"),
        ("throttled", "throttled"),
        ("idle", "runnable on an idle CPU"),
        ("moving", "being woken or moved"),
        ("irq", "interrupt"),
        (
            "host",
            "running by the trace: host steal, SMI, an untraced interrupt, or a vCPU's hypervisor",
        ),
        ("other", "a thread that is not of the load"),
        ("unknown", "the trace does not say"),
    ];
    html! {
        ul.legend aria-hidden="true" {
            @for (class, text) in CLASSES {
                li { svg.swatch viewBox="0 0 22 12" { rect class={ "p " (class) } width="22" height="12" {} } (text) }
            }
            li { svg.swatch viewBox="0 0 22 12" { rect.p.g0 width="12" height="12" {}
                rect.p.g0 x="12" y="5" width="10" height="2" {} } "a group's thread runs, waits" }
        }
    }
}
