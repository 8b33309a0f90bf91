//! Why a command ended early, as a line on standard error and an exit code.

use std::error::Error as StdError;

/// The exit code of a program that a signal asked to end, as shells count it (128 + SIGINT).
const INTERRUPTED: u8 = 130;

/// Why a command ended early.
#[derive(Debug)]
pub(super) enum Failure {
    /// The command line can't be used as it is; says what to write instead.
    Usage(String),
    /// Something went wrong; says what, where and what to do.
    Failed(String),
    /// The report was printed and holds what is wrong; this says it in a line.
    Found(String),
    /// SIGINT or SIGTERM; says what became of the work.
    Interrupted(&'static str),
}

impl Failure {
    pub(super) fn failed(message: impl Into<String>) -> Self {
        Self::Failed(message.into())
    }

    /// An operating system's refusal.
    pub(super) fn io(what: impl std::fmt::Display, error: &std::io::Error) -> Self {
        Self::Failed(format!("{what}: {error}"))
    }

    pub(super) fn print(&self) {
        match self {
            Self::Usage(message) => {
                eprintln!("forebay: error: {message}\n\nFor more information, try '--help'.");
            }
            Self::Failed(message) => eprintln!("forebay: error: {message}"),
            Self::Found(message) => eprintln!("forebay: {message}"),
            Self::Interrupted(what) => eprintln!("forebay: interrupted; {what}"),
        }
    }

    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Failed(_) | Self::Found(_) => 1,
            Self::Interrupted(_) => INTERRUPTED,
        }
    }
}

/// An error with its causes, each said once.
fn with_causes(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.ends_with(&said) {
            text = format!("{text}: {said}");
        }
        cause = error.source();
    }
    text
}

impl From<crate::Error> for Failure {
    fn from(error: crate::Error) -> Self {
        match error {
            crate::Error::Cache(error) => error.into(),
            crate::Error::Config { message } => Self::Usage(message),
            error => Self::Failed(with_causes(&error)),
        }
    }
}

impl From<forebay_cache::Error> for Failure {
    fn from(error: forebay_cache::Error) -> Self {
        match error {
            forebay_cache::Error::Config { message } => Self::Usage(message),
            error => Self::Failed(with_causes(&error)),
        }
    }
}
