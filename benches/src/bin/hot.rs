//! One of the hot functions, a number of times: what `make instructions` counts under valgrind.
//!
//! `hot --shard SHARD CASE TIMES` runs a case; `hot --list` prints a JSON object of the cases.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;
use forebay_bench::hot::{CASES, case};

#[derive(Parser)]
struct Args {
    /// A tar shard of JPEGs.
    #[arg(long, required_unless_present = "list")]
    shard: Option<PathBuf>,
    /// Print the cases.
    #[arg(long)]
    list: bool,
    #[arg(required_unless_present = "list")]
    case: Option<String>,
    #[arg(required_unless_present = "list")]
    times: Option<u32>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    if args.list {
        println!(
            "{}",
            serde_json::json!({ "cases": CASES.map(|(name, what)| serde_json::json!([name, what])) })
        );
        return Ok(());
    }
    let (shard, name, times) =
        args.shard.zip(args.case).zip(args.times).map(|((a, b), c)| (a, b, c)).context("usage")?;
    let mut run = case(&name, &shard)?;
    (0..times).try_for_each(|_| run())
}
