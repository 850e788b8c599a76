//! The measurements behind `docs/benchmarks.md`: each runs the real programs, of the profile that this one was built
//! with, against a system of its own in a folder of its own, and says on which machine and beside what it ran.
//!
//! A number that falls short of what was wanted is printed as such and is no failure; a measurement that could not be
//! made, or whose result is wrong (a lost job, another checksum), is one.

mod args;
mod client;
mod docker;
mod document;
mod fleet;
mod machine;
mod measures;
mod process;
mod report;
mod server;
mod servers;
mod simulated;
mod stats;

use std::process::ExitCode;

use clap::Parser;
use tokio::runtime::{Builder, Runtime};

use crate::args::{Cli, Measure};
use crate::machine::Beside;
use crate::report::Report;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let mut failed = false;
    for measure in cli.measure.each() {
        match one(&cli, &measure) {
            Ok(()) => {}
            Err(error) => {
                eprintln!("error: {} could not be measured: {error:#}", measure.name());
                failed = true;
            }
        }
    }
    if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

fn one(cli: &Cli, measure: &Measure) -> anyhow::Result<()> {
    eprintln!("measuring {} ...", measure.name());
    let beside = Beside::begin();
    let findings = runtime(measure)?.block_on(measures::run(measure))?;
    let report = Report::new(measure, findings, beside.end());
    if cli.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        println!("{report}");
    }
    if cli.write {
        document::write(&report)?;
    }
    Ok(())
}

/// Where one thing happens after the other, one thread: between two of them a client would add its own hand-overs, each
/// the waking of a processor, to what it measures.
fn runtime(measure: &Measure) -> std::io::Result<Runtime> {
    let mut builder = match measure {
        Measure::Idle(_) => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    builder.enable_all().build()
}
