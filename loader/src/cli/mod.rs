//! The program `forebay`: one file per command, each of which computes a report and leaves printing it to [`output`].
//!
//! Promises: the report goes to standard output, as text or (`--json`) as one JSON document with documented keys; everything else
//! (announcements, progress, errors) goes to standard error. Exit codes: 0 done, 1 failed (or found something bad), 2 a command line
//! that can't be used, 130 interrupted. Ctrl-C at any time leaves nothing broken.

mod bench;
mod doctor;
mod evict;
mod failure;
mod fetched;
mod index;
mod interrupt;
mod job;
mod ls;
mod output;
pub(crate) mod pack;
mod place;
mod prefetch;
mod status;
mod trace;
mod verify;
mod weights;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Parser, Subcommand};

use failure::Failure;
use interrupt::Interrupt;

/// Keeps data right before the GPU: packs, indexes, caches, checks and measures datasets of tar shards.
#[derive(Debug, Parser)]
#[command(name = "forebay", version, subcommand_required = true, arg_required_else_help = true)]
struct Program {
    /// Print the result as one JSON document.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Doctor(doctor::Arguments),
    Pack(pack::Arguments),
    Ls(ls::Arguments),
    Index(index::Arguments),
    Prefetch(prefetch::Arguments),
    Status(status::Arguments),
    Verify(verify::Arguments),
    Evict(evict::Arguments),
    Trace(trace::Arguments),
    Bench(bench::Arguments),
    Weights(weights::Arguments),
}

/// Runs the program with `args`, the first of which is its name, and gives its exit code. `jpeg_folders` are those of
/// [`DeviceSettings`](crate::device::DeviceSettings) of loaders beside it. Listens to SIGINT and SIGTERM while it runs.
pub fn run(args: impl IntoIterator<Item = OsString>, jpeg_folders: &[PathBuf]) -> u8 {
    let program = match Program::try_parse_from(args) {
        Ok(program) => program,
        Err(error) => {
            // Help and version come this way too. Nobody is left to be told where this can't be printed.
            drop(error.print());
            return u8::try_from(error.exit_code()).unwrap_or(2);
        }
    };
    let done = Interrupt::listen().and_then(|interrupt| program.run(jpeg_folders, &interrupt));
    match done {
        Ok(()) => 0,
        Err(failure) => {
            failure.print();
            failure.exit_code()
        }
    }
}

impl Program {
    fn run(&self, jpeg_folders: &[PathBuf], interrupt: &Interrupt) -> Result<(), Failure> {
        let json = self.json;
        match &self.command {
            Command::Doctor(arguments) => doctor::run(arguments, json, jpeg_folders),
            Command::Pack(arguments) => pack::run(arguments, json, interrupt),
            Command::Ls(arguments) => ls::run(arguments, json, interrupt),
            Command::Index(arguments) => index::run(arguments, json, interrupt),
            Command::Prefetch(arguments) => prefetch::run(arguments, json, interrupt),
            Command::Status(arguments) => status::run(arguments, json, interrupt),
            Command::Verify(arguments) => verify::run(arguments, json, interrupt),
            Command::Evict(arguments) => evict::run(arguments, json, interrupt),
            Command::Trace(arguments) => trace::run(arguments, json, interrupt),
            Command::Bench(arguments) => bench::run(arguments, json, interrupt),
            Command::Weights(arguments) => weights::run(arguments, json, interrupt),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Program::command().debug_assert();
    }
}
