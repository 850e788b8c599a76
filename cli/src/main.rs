//! `jobworker`: the shell of JobWorker. Reads the command line, performs one verb, ends with its status.

use std::process::ExitCode;

use clap::Parser;
use jobworker::args::Cli;
use jobworker::output::note;
use jobworker::output::sanitise::line;
use jobworker::verbs;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            note(&format!("error: the program could not start ({error})"));
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(Box::pin(verbs::perform(cli.global, cli.verb))) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            if !failure.is_silent() {
                // it may quote what a server, an engine or a registry said
                let shown: Vec<String> = failure.to_string().lines().map(line).collect();
                note(&format!("error: {}", shown.join("\n")));
            }
            failure.exit_status().into()
        }
    }
}
