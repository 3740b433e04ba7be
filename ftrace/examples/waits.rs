// SPDX-License-Identifier: Apache-2.0
//! The ten longest waits for a CPU in any trace.dat, and who ran instead: `waits TRACE.DAT`. The
//! trace's clock is to count nanoseconds, as trace-cmd's usual one does.

use std::error::Error;
use std::path::Path;

use ftrace::attribution::{Context, Units, explain};
use ftrace::{Trace, Wait, Wanted, waits};

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).ok_or("usage: waits TRACE.DAT")?;
    let trace = Trace::open(Path::new(&path))?;
    let found = waits(&trace, &Wanted::default())?;
    let gaps: Vec<_> = found.worst.iter().map(Wait::gap).collect();
    let context = Context::default();
    for explanation in explain(&trace, &gaps, &context)? {
        println!("{}", explanation.paragraph(&context, Units::nanoseconds()));
    }
    Ok(())
}
