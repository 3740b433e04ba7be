// SPDX-License-Identifier: Apache-2.0
//! A history for people, and for programs that read tables.

use std::fmt::Write as _;

use decision::change_points::ChangePoint;
use results::history::{History, KernelOfHistory};
use results::metric::{Metric, Quantity};

use crate::terminal::one_line;
use crate::verbs::trials::lines::show;

/// The table: a line a kernel, with what changes there.
pub fn table(history: &History) -> String {
    let metric = history.metric;
    let mut text = format!(
        "history of {} ({}), {} kernels\n\n{:>4}  {:<40}  {:>9}  {:<23}  {:>6}  change\n",
        metric.name(),
        metric.words(),
        history.kernels.len(),
        "",
        "kernel",
        "median",
        "95 % interval",
        "trials"
    );
    // Changes count the kernels that tell the figure.
    let mut told = 0;
    for (number, kernel) in (1..).zip(&history.kernels) {
        let is_told = kernel.side.median.is_some();
        let change = history.changes.iter().find(|change| is_told && change.at == told);
        told += usize::from(is_told);
        // Writing to a String does not fail.
        let _ = writeln!(text, "{}", line(number, kernel, change, metric).trim_end());
    }
    text.push('\n');
    for note in &history.notes {
        let _ = writeln!(text, "{:<9} {}", "note", one_line(note));
    }
    let _ = writeln!(text, "{:<9} {}", "measured", one_line(&history.conditions));
    let _ = write!(text, "{:<9} {}", "changes", sentence(history));
    text
}

fn line(
    number: usize,
    kernel: &KernelOfHistory,
    change: Option<&ChangePoint>,
    metric: Metric,
) -> String {
    let median = kernel.side.median;
    let value = median.map_or_else(|| "-".to_owned(), |it| show(metric, it.median));
    let interval = median.and_then(|it| it.interval);
    let interval = interval.map_or_else(String::new, |it| {
        format!("{} to {}", show(metric, it.low), show(metric, it.high))
    });
    let name: String = one_line(&release(kernel)).chars().take(40).collect();
    format!(
        "{number:>4}  {name:<40}  {value:>9}  {interval:<23}  {:>6}  {}",
        kernel.side.trials,
        change.map_or_else(String::new, said)
    )
}

/// `6.12.1` of `6.12.1 #1 SMP ...`.
pub fn release(kernel: &KernelOfHistory) -> String {
    kernel.side.kernel.split(' ').next().unwrap_or_default().to_owned()
}

/// `worse x1.52 (p = 0.00002)`; a p that is smaller than what is shown is one below it.
fn said(change: &ChangePoint) -> String {
    let word = if change.ratio > 1.0 { "worse" } else { "better" };
    let p = if change.p < 1e-5 { "p < 0.00001".to_owned() } else { format!("p = {:.5}", change.p) };
    format!("{word} x{:.2} ({p})", change.ratio)
}

/// The end in words.
fn sentence(history: &History) -> String {
    let told: Vec<_> = history.kernels.iter().filter(|it| it.side.median.is_some()).collect();
    let each = history.changes.iter().filter_map(|change| {
        let kernel = told.get(change.at)?;
        Some(format!("at {} {}", one_line(&release(kernel)), said(change)))
    });
    let each: Vec<_> = each.collect();
    if each.is_empty() {
        let least = 100.0 * history.min_effect;
        return format!(
            "none of {least:.0} % or more (found are those that 7 kernels on each side tell, or 3 after many)"
        );
    }
    each.join("; ")
}

/// A line a kernel: when, which, and the medians of all figures; what is not known is empty.
pub fn csv(history: &History) -> String {
    let columns = Metric::ALL.map(column).join(",");
    let mut text = format!("time,kernel,folder,trials,{columns}\n");
    for kernel in &history.kernels {
        let of = |metric: Metric| match kernel.side.median {
            Some(median) if metric == history.metric => median.median.to_string(),
            _ => kernel.others.get(&metric).map(f64::to_string).unwrap_or_default(),
        };
        let KernelOfHistory { started_utc, side, .. } = kernel;
        let figures = Metric::ALL.map(of).join(",");
        let (release, folder) = (quoted(&release(kernel)), quoted(&side.name));
        // Writing to a String does not fail.
        let _ = writeln!(text, "{started_utc},{release},{folder},{},{figures}", side.trials);
    }
    text
}

/// `wait_p99_ns`.
pub fn column(metric: Metric) -> String {
    let unit = match metric.quantity() {
        Quantity::LengthNs => "_ns",
        Quantity::Share => "",
    };
    format!("{}{unit}", metric.name().replace('-', "_"))
}

/// As RFC 4180 has it.
pub fn quoted(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}
