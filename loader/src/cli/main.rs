//! The program `forebay`.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(forebay_loader::cli::run(std::env::args_os(), &[]))
}
