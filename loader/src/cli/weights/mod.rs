//! `forebay weights`: models of safetensors files. One file per command.

mod load;
mod ls;
mod prefetch;
mod verify;

use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

use clap::{Args, Subcommand};

use super::failure::Failure;
use super::interrupt::Interrupt;
use super::place::{CacheArguments, default_limit};
use crate::report::Reporter;
use crate::stop::Stop;
use crate::weights::{Settings, Weights};

/// How often Ctrl-C is looked for while something is waited for.
const SLICE: Duration = Duration::from_millis(100);

/// Show, cache, check and load the weights of a model: safetensors files.
#[derive(Args, Debug)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Ls(ls::Arguments),
    Prefetch(prefetch::Arguments),
    Verify(verify::Arguments),
    Load(load::Arguments),
}

/// A model, and where it is cached.
#[derive(Args, Debug)]
struct ModelArguments {
    /// The model: a .safetensors file, a folder or prefix of them, or an index (*.safetensors.index.json); or several files. Local ones are
    /// read where they lie, unless --cache-dir is given
    #[arg(value_name = "URL", required = true)]
    urls: Vec<String>,
    #[command(flatten)]
    cache: CacheArguments,
}

pub(super) fn run(arguments: &Arguments, json: bool, interrupt: &Interrupt) -> Result<(), Failure> {
    match &arguments.command {
        Command::Ls(arguments) => ls::run(arguments, json, interrupt),
        Command::Prefetch(arguments) => prefetch::run(arguments, json, interrupt),
        Command::Verify(arguments) => verify::run(arguments, json, interrupt),
        Command::Load(arguments) => load::run(arguments, json, interrupt),
    }
}

/// An open model, and what else a command needs.
struct Model<'a> {
    weights: Weights,
    reporter: Reporter,
    interrupt: &'a Interrupt,
}

impl<'a> Model<'a> {
    fn open(arguments: &ModelArguments, interrupt: &'a Interrupt) -> Result<Self, Failure> {
        let dir = arguments.cache.dir()?;
        let limit_bytes = arguments.cache.cache_limit.unwrap_or_else(|| default_limit(&dir));
        let settings = Settings {
            urls: arguments.urls.clone(),
            cache: arguments.cache.settings(dir, limit_bytes)?,
            cache_local: arguments.cache.cache_dir.is_some(),
        };
        let (done, opened) = sync_channel(1);
        let open = move || {
            // Nobody listens any more where the user interrupted.
            let _unheard = done.send(Weights::open(&settings, &Stop::default()));
        };
        let failed = |error| Failure::io("a thread for reading headers can't be started", &error);
        std::thread::Builder::new().name("forebay-open".into()).spawn(open).map_err(failed)?;
        let weights = loop {
            match opened.recv_timeout(SLICE) {
                Ok(opened) => break opened?,
                Err(RecvTimeoutError::Timeout) if !interrupt.seen() => {}
                Err(RecvTimeoutError::Timeout) => {
                    return Err(Failure::Interrupted("the model was being opened; nothing was changed"));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(Failure::failed(
                        "opening the model panicked (the text is above); please report it",
                    ));
                }
            }
        };
        Ok(Self { weights, reporter: Reporter::default(), interrupt })
    }

    /// Runs `work` to its end, or until the user interrupts; `left` then says what became of it.
    fn run<T, E: Into<Failure>>(
        &self,
        left: &'static str,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, Failure> {
        self.weights.handle().block_on(async {
            tokio::select! {
                () = self.interrupt.wait() => Err(Failure::Interrupted(left)),
                done = work => done.map_err(Into::into),
            }
        })
    }
}
