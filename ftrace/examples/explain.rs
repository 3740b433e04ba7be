// SPDX-License-Identifier: Apache-2.0
//! Explains gaps: `explain TRACE.DAT GAPS.CSV CORES KHZ [COUNT]`.
//!
//! GAPS.CSV has lines `gap,TID,BEGIN,END` and `group,GROUP,TID,…`, as the example
//! `cookie_load` prints them; CORES is such as `0,1/2,3`; KHZ the frequency of the trace clock.
//! It prints the COUNT longest gaps (3) and writes TRACE.DAT.perfetto beside the trace.

use std::error::Error;
use std::fs::{self, File};
use std::io::BufWriter;
use std::path::Path;

use ftrace::Trace;
use ftrace::attribution::{Context, Gap, Topology, Units, explain};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path, gaps, cores, khz, count @ ..] = &arguments[..] else {
        return Err("usage: explain TRACE.DAT GAPS.CSV CORES KHZ [COUNT]".into());
    };
    let trace = Trace::open(Path::new(path))?;
    let cores = cores
        .split('/')
        .map(|core| core.split(',').map(str::parse).collect::<Result<Vec<u32>, _>>())
        .collect::<Result<Vec<_>, _>>()?;
    let mut context = Context {
        topology: Topology::from_cores(cores.iter().map(Vec::as_slice)),
        core_scheduling: true,
        max_segments: 10_000,
        ..Context::default()
    };
    let mut asked = Vec::new();
    for line in fs::read_to_string(gaps)?.lines() {
        match line.split(',').collect::<Vec<_>>()[..] {
            ["gap", tid, begin, end] => {
                asked.push(Gap { tid: tid.parse()?, begin: begin.parse()?, end: end.parse()? });
            }
            ["group", group, tid, ..] => {
                context.groups.insert(tid.parse()?, group.parse()?);
            }
            _ => return Err(format!("no gap and no group: {line}").into()),
        }
    }
    let units = Units::tsc(khz.parse()?);
    let mut explained = explain(&trace, &asked, &context)?;
    let mut out = BufWriter::new(File::create(format!("{path}.perfetto"))?);
    trace.write_perfetto(&explained, &context, units, &mut out)?;
    explained.sort_by_key(|found| std::cmp::Reverse(found.gap.end - found.gap.begin));
    let count = count.first().map_or(Ok(3), |count| count.parse())?;
    for found in explained.iter().take(count) {
        println!("{}\n{}", found.paragraph(&context, units), found.table(&context, units));
    }
    let unknown: u64 = explained.iter().map(|found| found.unknown_ticks()).sum();
    let total: u64 = asked.iter().map(|gap| gap.end - gap.begin).sum();
    println!(
        "{} gaps, {:.1} ms; unknown {:.1} ms",
        asked.len(),
        units.ms(total),
        units.ms(unknown)
    );
    Ok(())
}
